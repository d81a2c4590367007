"""Knowledge, optimizers and losses as flags name them."""

import keras
import pytest

import modreduce_keras as mr
from modreduce_keras.command import choices
from modreduce_keras.command.mistakes import MistakeError


def ending(units):
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])


def test_knowledge_with_layers_and_weights():
    found = choices.knowledge(
        ["kd", "DIST=0.5", "hint@a", "hint@a@b=7", "rkd_distance@x+y"], None, "classes", ending(3)
    )
    assert [type(one).__name__ for one in found] == [
        *("Response", "Response", "Feature", "Feature", "Relation"),
    ]
    assert [one.loss.identifier for one in found] == ["kd", "dist", "hint", "hint", "rkd_distance"]
    assert float(found[0].weight) == mr.losses.KD.default_weight
    assert float(found[1].weight) == 0.5
    assert float(found[3].weight) == 7.0
    assert (found[2].student, found[2].teacher) == ("a", "a")
    assert (found[3].student, found[3].teacher) == ("a", "b")
    assert found[4].student == ["x", "y"]


@pytest.mark.parametrize(
    ("kind", "units", "name"),
    [("classes", 3, "dist"), ("logit", 1, "binary_kd"), ("regression", 1, "logit_mse")],
)
def test_default_by_kind(kind, units, name):
    for named in (None, []):
        (found,) = choices.knowledge(named, None, kind, ending(units))
        assert found.loss.identifier == name


def test_layers_that_are_not_named_are_left_to_the_distiller():
    found = choices.knowledge(["hint", "rkd_distance=2"], None, "classes", ending(3))
    assert found == ["hint", {"rkd_distance": 2.0}]


def test_temperature_is_given_to_those_that_have_one():
    kd, hint = choices.knowledge(["kd", "hint@a"], 7.0, "classes", ending(3))
    assert float(kd.loss.temperature) == 7.0
    assert not hasattr(hint.loss, "temperature")
    with pytest.raises(MistakeError, match="--temperature is for methods that have one"):
        choices.knowledge(["logit_mse"], 7.0, "classes", ending(3))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hintt@a", "Received: 'hintt'. Did you mean 'hint'?"),
        ("kd@a", "must be kd without a layer"),
        ("kd=much", "must be a number or balanced"),
        ("@a", "must be NAME, NAME=WEIGHT or"),
        ("crd@a", "needs the sample index"),
        ("fsp@a", "needs a stage of its own"),
    ],
)
def test_mistakes(text, line):
    with pytest.raises(MistakeError) as caught:
        choices.knowledge([text], None, "classes", ending(3))
    assert line in str(caught.value)


@pytest.mark.parametrize(("name", "rate"), [("adam", 1e-3), ("adamw", 1e-3), ("sgd", 0.05)])
def test_learning_rate_falls_along_a_cosine(name, rate):
    made = choices.optimizer(name, None, 10)
    assert type(made).__name__.lower() == name
    assert float(made.learning_rate) == pytest.approx(rate)
    schedule = choices.optimizer(name, 0.2, 10).get_config()["learning_rate"]["config"]
    assert (schedule["initial_learning_rate"], schedule["decay_steps"]) == (0.2, 10)


def test_supervision_takes_logits():
    for kind, labels, logits, expected in [
        ("classes", [1], [[0.0, 0.0]], 0.6931472),
        ("logit", [[1.0]], [[0.0]], 0.6931472),
        ("regression", [[1.0]], [[3.0]], 4.0),
    ]:
        loss, metric, curve = choices.supervision(kind)
        value = loss(keras.ops.array(labels), keras.ops.array(logits))
        assert float(value) == pytest.approx(expected)
        assert curve == f"val_{metric.name}"
