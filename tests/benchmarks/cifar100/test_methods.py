"""What is compared on CIFAR-100: every method's terms, weights and cost, and the protocols."""

import dataclasses

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from benchmarks.cifar100 import names

WIDTHS = (4, 8, 8)
# Multiply-adds on 32x32 images: stage 1, stage 2, stage 3 with the classifier.
TRUNK, HEAD = 16 * 16 * 27 * 4 + 8 * 8 * 36 * 8, 4 * 4 * 72 * 8 + 8 * 100
MODREDUCE = {"response": ["kd"], "feature": ["kd", "semckd"], "relation": ["kd", "crd"]}
BALANCED = -1.0  # stands for a weight that the first step sets
# Weights of the terms, and passes of students and teacher in a step.
SINGLE = {
    "kd": {"kd": 0.9},
    "kd_even": {"kd": 1.0},
    "hint": {"hint_stage2": 100.0},
    "hint, balanced": {"hint_stage2": BALANCED},
    "at": {"at_stage1": 1000.0, "at_stage2": 1000.0, "at_stage3": 1000.0},
    "at, balanced": {f"at_stage{n}": BALANCED for n in (1, 2, 3)},
    "at, a tenth": {"at_stage1": 100.0, "at_stage2": 100.0, "at_stage3": 100.0},
    "sp": {"sp": 3000.0},
    "sp, balanced": {"sp": BALANCED},
    "sp, a tenth": {"sp": 300.0},
    "rkd": {"rkd_distance": 25.0, "rkd_angle": 50.0},
    "rkd, balanced": {"rkd_distance": BALANCED, "rkd_angle": BALANCED},
    "crd": {"crd": 0.8},
    "crd, balanced": {"crd": BALANCED},
    "semckd": {"kd": 1.0, "semckd": 400.0},
    "semckd, balanced": {"kd": 1.0, "semckd": BALANCED},
    "semckd, a quarter": {"kd": 1.0, "semckd": 100.0},
    "dkd": {"dkd": 0.0},  # at first
    "dist": {"dist": 1.0},
    "dist and hint": {"dist": 1.0, "hint_stage2": 100.0},
    "dist and hint, last stage": {"dist": 1.0, "hint_stage3": 100.0},
    "dist and hint, every stage": {"dist": 1.0, **{f"hint_stage{n}": 100.0 for n in (1, 2, 3)}},
    "dist and hint, a tenth": {"dist": 1.0, "hint_stage2": 10.0},
    "dist, moving average": {"dist": 1.0},
    "shake": {"kd": 1.0, "shake": 1.0},
}
PEERS = {
    "one": (TRUNK + 3 * HEAD) / (TRUNK + HEAD),
    "okddip": (TRUNK + 4 * HEAD) / (TRUNK + HEAD),
    "pcl": 3 + 3,  # each has a view of its own, and a past self
}
# The online weight at the first step, after half of the steps, and at the end; the temperature.
ONLINE = {
    "modreduce/weighted_average, dist": (0.01, 0.01 * 70**0.5, 0.7, 4.0),
    "modreduce/weighted_average, dist, constant": (0.5, 0.5, 0.5, 4.0),
    "modreduce/weighted_average, dist, late": (0.0, 0.7, 0.7, 4.0),
    "modreduce/weighted_average, dist, temperature 1": (0.01, 0.01 * 70**0.5, 0.7, 1.0),
    "modreduce/weighted_average, dist, moving average": (0.01, 0.01 * 70**0.5, 0.7, 4.0),
    "modreduce/okddip, dist": (0.01, 0.01 * 70**0.5, 0.7, 4.0),
}
AVERAGED = {
    "modreduce/peer_averaging, dist": ["dist"],
    "modreduce/peer_averaging, dist and hint": ["dist", "hint_stage2"],
}
PASSES = {"weighted_average": 3, "fully_connected": 3, "one": 3, "pcl": 6}


def network(name, widths=WIDTHS):
    return mr.models.convnet(num_classes=100, widths=widths, input_shape=(32, 32, 3), name=name)


@pytest.fixture
def methods():
    from benchmarks.cifar100 import methods

    return methods


@pytest.fixture
def protocols():
    from benchmarks.cifar100 import protocols

    return protocols


@pytest.fixture
def task(methods, protocols):
    protocol = protocols.Protocol(epochs=24, held_out=49_800, validation=10, batch=32, negatives=70)
    return methods.Task(network, network("teacher", (6, 8, 8)), protocol)


def made(methods, task, name, students, teachers, views=1):
    """Makes what a method trains, and checks what it says it costs."""
    trainee = methods.METHODS[name](task)
    assert (trainee.students, trainee.teachers) == (pytest.approx(students), teachers)
    assert (trainee.views, name in methods.ALONE) == (views, not teachers)
    return trainee.model


def test_every_method_is_tested(methods):
    modreduce = [f"modreduce/{name}" for name in PASSES]
    others = ["modreduce/weighted_average, even", *ONLINE]
    others += ["modreduce/weighted_average, dist and kinds", *AVERAGED]
    three = ["three/kd", "three/dist", "three/dist and hint", "three/dist and kinds", "three/kinds"]
    several = ["plain", *SINGLE, *modreduce, *others, *three, *PEERS]
    assert list(methods.METHODS) == several == list(names.ORDER)


@pytest.mark.parametrize("name", SINGLE)
def test_a_student_with_a_teacher_has_the_weights_that_its_name_says(methods, task, name):
    distiller = made(methods, task, name, 1, 1)
    weights = {
        one.name: BALANCED if one.is_balanced else float(one.weight)
        for one in distiller.all_knowledge()
    }
    assert weights == pytest.approx(SINGLE[name])
    labels = 0.1 if name == "kd" else 1.0
    assert float(distiller.supervised_weight) == pytest.approx(labels)
    if name == "crd":
        assert distiller.all_knowledge()[0].adapter.negatives == 70
    if name == "dkd":
        # 24 epochs of 7 steps; 20 of 240 epochs are 14 of 168 steps.
        distiller.step.assign(7)
        assert float(distiller.all_knowledge()[0].weight) == pytest.approx(0.5)


@pytest.mark.parametrize("name", PASSES)
def test_modreduce_is_the_papers(methods, task, name):
    model = made(methods, task, f"modreduce/{name}", PASSES[name], 1)
    assert {student: [k.name for k in several] for student, several in model.knowledge.items()} == (
        MODREDUCE
    )
    assert model.multipliers == {"response": 10.0, "feature": 100.0, "relation": 1.0}
    assert model.aggregator.identifier == name
    semckd, crd = (model.knowledge[student][1] for student in ("feature", "relation"))
    assert (float(semckd.weight), float(crd.weight)) == pytest.approx((400.0, 0.8))
    assert (semckd.adapter.batch_size, crd.adapter.samples) == (32, 200)
    assert getattr(model.aggregator, "variant", "paper") == (
        "modreduce" if name in ("one", "pcl") else "paper"
    )
    # 24 stairs in 24 epochs: the last one has .01 * 70^(23/24).
    model.step.assign(7 * 23)
    assert float(model.online_weight) == pytest.approx(0.01 * 70 ** (23 / 24), rel=1e-5)


def test_an_even_modreduce_gives_every_students_labels_the_same_weight(methods, task):
    model = made(methods, task, "modreduce/weighted_average, even", 3, 1)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    offline = 1.0 - float(model.online_weight)
    weights = {name: float(weight) / offline for name, weight in model.term_weights().items()}
    alike = {f"{student}/{term}": 1.0 for student in MODREDUCE for term in ("ce", "kd")}
    expected = {**alike, "feature/semckd": 100.0, "relation/crd": 0.8}
    assert {name: weights[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("few", "first"), [(None, 1), (2, 2)])
def test_semckd_compares_the_last_stages_of_the_protocol(methods, task, few, first):
    protocol = dataclasses.replace(task.protocol, crossed=few)
    _, semckd = methods.calibrated(dataclasses.replace(task, protocol=protocol))
    stages = [f"stage{n}" for n in range(first, 4)]
    assert (semckd.student, semckd.teacher) == (stages, stages)


def test_students_that_do_not_meet_learn_what_those_of_modreduce_do(methods, task):
    model = made(methods, task, "three/kinds", 3, 1)
    assert {name: [k.name for k in several] for name, several in model.knowledge.items()} == (
        MODREDUCE
    )
    assert float(model.online_weight) == 0.0
    assert model.multipliers == {"response": 10.0, "feature": 100.0, "relation": 1.0}


@pytest.mark.parametrize(
    ("name", "terms"),
    [("kd", ["kd"]), ("dist", ["dist"]), ("dist and hint", ["dist", "hint_stage2"])],
)
def test_three_students_may_learn_from_the_same(methods, task, name, terms):
    model = made(methods, task, f"three/{name}", 3, 1)
    assert [k.name for k in model.all_knowledge()] == terms * 3
    assert float(model.online_weight) == 0.0
    assert model.multipliers == {}


@pytest.mark.parametrize("name", ONLINE)
def test_three_students_with_dist_learn_from_one_another_as_the_name_says(methods, task, name):
    model = made(methods, task, name, 3, 1)
    assert [k.name for k in model.all_knowledge()] == ["dist"] * 3
    assert model.multipliers == {}
    assert f"modreduce/{model.aggregator.identifier}" == name.partition(",")[0]
    *weights, temperature = ONLINE[name]
    for step, weight in zip((0, 84, 168), weights, strict=True):
        model.step.assign(step)
        assert float(model.online_weight) == pytest.approx(weight, rel=1e-5)
    assert (model.online_loss.identifier, float(model.online_loss.temperature)) == (
        "kd",
        temperature,
    )


@pytest.mark.parametrize("name", ["dist", "modreduce/weighted_average, dist"])
def test_moving_averages_are_of_about_an_epoch(methods, task, name):
    assert methods.METHODS[name](task).ema_momentum is None
    # An epoch has 7 steps.
    averaged = methods.METHODS[f"{name}, moving average"](task)
    assert averaged.ema_momentum == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("name", "online"),
    [("three/dist and kinds", 0.0), ("modreduce/weighted_average, dist and kinds", 0.01)],
)
def test_kinds_of_knowledge_stand_beside_dist(methods, task, name, online):
    model = made(methods, task, name, 3, 1)
    terms = {student: [k.name for k in several] for student, several in model.knowledge.items()}
    assert terms == {
        "response": ["dist"],
        "feature": ["dist", "hint_stage2"],
        "relation": ["dist", "crd"],
    }
    assert float(model.online_weight) == pytest.approx(online)
    assert model.multipliers == {}


@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_students_begin_alike_and_see_images_of_their_own(methods, task, name):
    model = made(methods, task, name, 3, 3)
    assert [k.name for k in model.all_knowledge()] == AVERAGED[name] * 3
    assert float(model.online_weight) == 0.0
    images = {f"part_{i}": np.full((2, 32, 32, 3), float(i), "float32") for i in range(3)}
    seen = [model._forward.seen_by(name, images, training=True) for name in model.students]
    assert [float(each[0, 0, 0, 0]) for each in seen] == [0.0, 1.0, 2.0]
    first, *others = (student.get_weights() for student in model.students.values())
    for weights in others:
        for one, other in zip(weights, first, strict=True):
            np.testing.assert_array_equal(one, other)
    assert methods.METHODS[name](task).parts == 3
    averaging = model.own_callbacks([])[-1]
    assert (averaging.rate, averaging.every) == (0.01, 10)


@pytest.mark.parametrize("name", PEERS)
def test_peers_without_a_teacher_share_their_lower_stages(methods, task, name):
    model = made(methods, task, name, PEERS[name], 0, views=3 if name == "pcl" else 1)
    assert model.aggregator.identifier == name
    # A ramp-up over a third of the training.
    model.step.assign(168 // 3)
    assert float(model.online_weight) == pytest.approx(1.0)
    model.step.assign(0)
    assert float(model.online_weight) == pytest.approx(np.exp(-5.0))


def test_a_student_alone_is_a_plain_model(methods, task):
    assert not isinstance(made(methods, task, "plain", 1, 0), mr.Distiller)


def test_attention_of_networks_with_different_numbers_of_stages(methods, task):
    deeper = dataclasses.replace(task, teacher=network("teacher", (4, 4, 8, 8)))
    pairs = [(one.student, one.teacher) for one in methods.attention(deeper)]
    assert pairs == [("stage1", "stage2"), ("stage2", "stage3"), ("stage3", "stage4")]


@pytest.mark.parametrize(("identifier", "rate"), [("resnet20", 0.05), ("mobilenet_v2", 0.01)])
def test_rates_fall_to_tenths(protocols, identifier, rate):
    protocol = protocols.PROTOCOLS["paper"]
    assert (protocol.samples, protocol.steps) == (45_000, 240 * 704)
    schedule = protocol.optimizer(identifier)._learning_rate
    rates = [float(schedule(704 * epoch + 5)) for epoch in (0, 149, 150, 180, 210, 239)]
    expected = [rate, rate, rate / 10, rate / 100, rate / 1000, rate / 1000]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_weight_decay_goes_through_the_momentum(protocols):
    variable = keras.Variable([1.0, -2.0])
    optimizer = protocols.CoupledSGD(0.1, momentum=0.9, decay=0.5)
    optimizer.build([variable])
    weight, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for gradient in (np.array([0.3, 0.1]), np.array([-0.2, 0.4]), np.array([0.0, 0.0])):
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        velocity = 0.9 * velocity - 0.1 * (gradient + 0.5 * weight)
        weight = weight + velocity
    np.testing.assert_allclose(variable.numpy(), weight, rtol=1e-6)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.decay == 0.5


def test_the_paper_trains_for_240_epochs_and_protocols_for_two_cores_widen_the_student(protocols):
    paper, middle = protocols.PROTOCOLS["paper"], protocols.PROTOCOLS["middle"]
    assert (paper.epochs, paper.batch, paper.held_out, paper.augmentations) == (240, 64, 5000, None)
    assert paper.network("resnet20", "student").input_shape == (None, 32, 32, 3)
    few = protocols.PROTOCOLS["few_labels"]
    assert few == dataclasses.replace(protocols.PROTOCOLS["small"], labelled=1000)
    for name in ("small", "middle"):
        student = protocols.PROTOCOLS[name].network("convnet", "student")
        assert student.count_params() == 106_820
    assert (middle.samples, middle.validation, middle.epochs) == (45_000, 5000, 30)
    assert middle.steps == 30 * 704
