"""A `compile` that raises leaves a distiller as it was."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.keras_internals import present_attributes
from tests.support.models.poison import values

pytestmark = pytest.mark.usefixtures("eagerly")


def offline(net, teacher):
    return mr.Distiller(student=net(), teacher=teacher, knowledge="kd")


KINDS = {
    "Distiller": offline,
    "ModReduce": lambda net, teacher: mr.ModReduce(
        teacher=teacher,
        students={name: net() for name in "abc"},
        knowledge={"a": "kd", "b": "dist", "c": "dkd"},
        aggregator="weighted_average",
    ),
    "PeerDistiller": lambda net, teacher: mr.PeerDistiller({"a": net(), "b": net()}),
    "MeanTeacher": lambda net, teacher: mr.MeanTeacher(net()),
}
FAILING = {
    "loss": {"loss": keras.losses.SparseCategoricalCrossentropy()},
    "a loss of another kind": {"loss": keras.losses.BinaryCrossentropy(from_logits=True)},
    "metric": {"metrics": ["acuracy"]},
    "optimizer": {"optimizer": {"nobody": "adam"}},
    "steps_per_execution": {"steps_per_execution": 0},
    "on_nonfinite": {"on_nonfinite": "go on"},
}


def attributes(distiller):
    return {
        name: list(value) if isinstance(value, (list, dict, set)) else value
        for name, value in vars(distiller).items()
    }


def require_same_attributes(before, distiller):
    now = attributes(distiller)
    assert now.keys() == before.keys()
    for name, value in before.items():
        same = now[name] == value if isinstance(value, list) else now[name] is value
        assert same, name


CASES = [
    *(("Distiller", how) for how in FAILING),
    *(("ModReduce", how) for how in ("a loss of another kind", "on_nonfinite")),
    *((kind, "metric") for kind in ("PeerDistiller", "MeanTeacher")),
]


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_nothing_changes(kind, how, net, teacher, cross_entropy, images, labels, tmp_path):
    distiller = KINDS[kind](net, teacher)
    given = {"optimizer": "sgd", "loss": cross_entropy, "metrics": ["accuracy"]}
    before = attributes(distiller)
    with pytest.raises((ValueError, TypeError)):
        distiller.compile(**{**given, **FAILING[how]})
    assert not distiller.compiled
    require_same_attributes(before, distiller)
    distiller.compile(**given)
    logs = distiller.fit(images, labels, verbose=0).history
    before, config = attributes(distiller), distiller.get_compile_config()
    with pytest.raises((ValueError, TypeError)):
        distiller.compile(**{**given, **FAILING[how]})
    require_same_attributes(before, distiller)
    assert distiller.get_compile_config() == config
    assert distiller.fit(images, labels, verbose=0).history.keys() == logs.keys()
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for one, other in zip(values(loaded.variables), values(distiller.variables), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_last_checks_come_after_the_policy(
    net, teacher, cross_entropy, mixed_float16, monkeypatch
):
    distiller = offline(net, teacher)
    distiller.compile("sgd", cross_entropy)
    distiller.policy.scales.scale.assign([8.0])
    before, policy = attributes(distiller), distiller.policy
    wrong = [Term("a", lambda outputs: 0.0, 1.0, network="nobody")]
    monkeypatch.setattr(type(distiller), "build_terms", lambda self: wrong)
    with pytest.raises(ValueError, match="nobody"):
        distiller.compile("adam", cross_entropy)
    require_same_attributes(before, distiller)
    assert distiller.policy is policy
    assert distiller.loss_scales == {"student": 8.0}


def test_a_chain_is_compiled_as_a_whole(net, teacher, cross_entropy):
    chain = mr.TeacherAssistantChain(
        teacher=teacher, students=[net(name=name) for name in ("middle", "small")]
    )
    first, second = chain.distillers.values()
    with pytest.raises(ValueError, match="nobody"):
        chain.compile({"middle": "sgd", "small": {"nobody": "sgd"}}, cross_entropy)
    assert not first.compiled
    assert not second.compiled


def test_attributes_and_entries_come_back():
    """A layer as before: its attributes, and what Keras tracks."""
    layer = keras.layers.Dense(3)
    layer.inner = keras.layers.Dense(1)
    layer.several = [keras.metrics.Mean(name="first")]
    restore, tracked = present_attributes(layer), list(layer.metrics)
    layer.several.append(keras.metrics.Mean(name="second"))
    layer.another = keras.metrics.Mean(name="third")
    layer.inner, layer.units = keras.layers.Dense(2), 5
    assert len(layer.metrics) == 3
    restore()
    assert layer.metrics == tracked == list(layer.several)
    assert (layer.inner.units, layer.units) == (1, 3)
    assert not hasattr(layer, "another")
    layer.another = keras.metrics.Mean(name="third")  # it is noticed as if it were new
    assert len(layer.metrics) == 2
