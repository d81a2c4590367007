"""Every loss of the catalogue on CIFAR-100: how each is set up, and the table of what it gains."""

import math

import numpy as np
import pytest
from absl import app

import modreduce_keras as mr
from benchmarks.cifar100 import every_loss_table
from modreduce_keras.registry import components
from tests.support.about import ABOUT

RUN = {
    "pair": "resnet56:convnet",
    "augmentations": 3,
    "batch": 40,
    "rate": 0.05,
    "validation_images": 300,
    **ABOUT,
}
LEFT_OUT = {"ab", "ft", "fsp", "mhgd", "ofd", "binary_kd"}


@pytest.fixture(scope="module")
def every_loss():
    from benchmarks.cifar100 import every_loss

    return every_loss


@pytest.fixture(scope="module")
def task(every_loss):
    from benchmarks.cifar100 import methods, protocols

    def network(name):
        return mr.models.convnet(
            num_classes=100, widths=(4, 8, 8), input_shape=(32, 32, 3), name=name
        )

    teacher = mr.models.convnet(
        num_classes=100, widths=(4, 8, 64), input_shape=(32, 32, 3), name="teacher"
    )
    protocol = protocols.Protocol(epochs=2, held_out=49_800, validation=10, batch=32, negatives=70)
    return methods.Task(network, teacher, protocol)


def test_losses_that_learn_first_or_of_other_tasks_are_left_out(every_loss):
    names = set(every_loss.identifiers())
    others = set(components("loss")) - names - LEFT_OUT
    assert not names & LEFT_OUT
    # What is left are losses of attention, of maps of labels, of numbers, and of tokens.
    assert others == {
        *("gaussian_kd", "teacher_bounded"),
        "ifvd",
        *("minilm_attention", "minilm_relation", "tinybert_attention"),
    }


def test_every_loss_has_its_default_weight_beside_the_labels(every_loss, task):
    for method, make in every_loss.GROUPS["default"].items():
        trainee = make(task)
        (knowledge,) = trainee.model.all_knowledge()
        assert f"default/{knowledge.loss.identifier}" == method
        assert float(knowledge.weight) == pytest.approx(type(knowledge.loss).default_weight)
        assert float(trainee.model.supervised_weight) == 1.0
        needs_teacher = method not in every_loss.ALONE
        assert (trainee.students, trainee.teachers) == (1.0, needs_teacher)
        assert (trainee.model.teacher is not None) == needs_teacher
    alone = ("confidence_penalty", "teacher_free")
    assert list(every_loss.ALONE) == [f"{g}/{name}" for g in every_loss.GROUPS for name in alone]


def test_weights_are_balanced_on_demand(every_loss, task):
    assert [name.partition("/")[2] for name in every_loss.GROUPS["balanced"]] == [
        name.partition("/")[2] for name in every_loss.GROUPS["default"]
    ]
    model = every_loss.EVERY_LOSS["balanced/hint"](task).model
    (knowledge,) = model.all_knowledge()
    with pytest.raises(ValueError, match="balanced"):
        knowledge.weight  # noqa: B018 - it has none before the first step


def test_crd_takes_the_negatives_of_the_protocol(every_loss, task):
    model = every_loss.EVERY_LOSS["default/crd"](task).model
    assert model.all_knowledge()[0].adapter.negatives == 70


def test_the_classifier_of_simkd_is_the_teachers(every_loss, task):
    model = every_loss.EVERY_LOSS["default/simkd"](task).model
    kernels = [weights for weights in model.student.get_weights() if weights.shape == (64, 100)]
    (kernel,) = (one for one in task.teacher.get_weights() if one.shape == (64, 100))
    np.testing.assert_array_equal(*kernels, kernel)


def test_the_flags_ask_for_every_loss_or_for_one(every_loss, forgets_flags):
    from benchmarks.cifar100 import train

    train.FLAGS(["train"])
    train.FLAGS.method = ["default"]
    assert train.methods() == list(every_loss.GROUPS["default"])
    train.FLAGS.method = ["default/kd", "balanced/kd", "plain"]
    assert train.methods() == ["plain", "default/kd", "balanced/kd"]
    train.FLAGS.method = ["default/mine"]
    with pytest.raises(app.UsageError, match=r"'default/kd'.*Received:.*'default/mine'"):
        train.methods()


def row(method, seed, test, protocol="small", **values):
    sizes = {"small": (20, 10_000), "middle": (30, 45_000)}[protocol]
    about = {"method": method, "seed": seed, "test": test, "protocol": protocol}
    return {**RUN, **about, "epochs": sizes[0], "samples": sizes[1], **values}


@pytest.fixture
def rows():
    small = [row("plain", seed, 0.20 + seed / 100) for seed in (1, 2)]
    small.append(row("kd", 1, 0.9))
    own = [row("default/kd", 1, 0.25), row("default/sp", 1, 0.20), row("default/semckd", 1, None)]
    own += [row("default/kd", 2, 0.28), row("default/sp", 1, 0.40, protocol="middle")]
    own += [row("balanced/sp", 2, 0.23)]
    middle = [row("plain", 1, 0.42, protocol="middle")]
    return {"cifar100_small": small, "cifar100_middle": middle, every_loss_table.FILE: own}


def test_gains_are_over_the_labels_of_the_same_seed_and_protocol(rows):
    small = every_loss_table.gains_of(rows, "cifar100_small")
    # 25 - 21 and 28 - 22; 20 - 21.
    assert {name: (gain.points, gain.seeds) for name, gain in small.items()} == {
        "kd": (pytest.approx([4.0, 6.0]), 2),
        "sp": (pytest.approx([-1.0]), 1),
        "semckd": ([], 1),
    }
    assert list(small) == ["kd", "sp", "semckd"]
    middle = every_loss_table.gains_of(rows, "cifar100_middle")
    assert {name: gain.points for name, gain in middle.items()} == {"sp": pytest.approx([-2.0])}
    balanced = every_loss_table.gains_of(rows, "cifar100_small", "balanced")
    assert {name: gain.points for name, gain in balanced.items()} == {"sp": pytest.approx([1.0])}


def test_the_table_has_both_protocols_and_weights_the_largest_gain_first(rows):
    lines = every_loss_table.evidence_every_loss(rows).splitlines()[2:]
    error = math.sqrt(2) / math.sqrt(2)
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["`kd`", f"+5.0 ± {error:.1f}", "2", "", "", "", ""],
        ["`sp`", "-1.0", "1", "+1.0", "1", "-2.0", "1"],
        ["`semckd`", "diverged", "1", "", "", "", ""],
    ]
