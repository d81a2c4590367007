"""Tests of knowledge: which taps it reads, its defaults, its adapter, its config, its variables."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.taps import ModelOutput

KINDS = [mr.Feature, mr.Relation]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "taps",
    [
        {},
        {"student": "a"},
        {"teacher": "a"},
        {"at": "a", "student": "b"},
        {"at": "a", "teacher": "b"},
        {"at": "a", "student": "b", "teacher": "c"},
        {"at": ""},
        {"at": []},
    ],
    ids=str,
)
def test_taps_are_named_for_both_models_or_for_each(kind, taps):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs the taps it reads: either at="):
        kind("hint", **taps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("taps", "student", "teacher"),
    [
        ({"at": "a"}, ["a"], ["a"]),
        ({"student": "a", "teacher": "b"}, ["a"], ["b"]),
        ({"at": ["a", "b"]}, ["a", "b"], ["a", "b"]),
        ({"student": ["b", "a"], "teacher": ["c"]}, ["b", "a"], ["c"]),
    ],
    ids=str,
)
def test_taps_are_listed_for_each_role(kind, taps, student, teacher):
    knowledge = kind("hint", **taps)
    assert (knowledge.taps("student"), knowledge.taps("teacher")) == (student, teacher)


def test_response_reads_the_logits_and_no_tap():
    response = mr.Response()
    assert response.taps("student") == response.taps("teacher") == []
    assert response.read("student", ModelOutput("logits", {"a": "feature"})) == "logits"
    assert (response.reads_logits("student"), response.reads_logits("teacher")) == (True, True)
    assert not mr.Feature("hint", at="a").reads_logits("teacher")


@pytest.mark.parametrize(
    ("taps", "expected"), [("b", 2), (["b", "a"], [2, 1]), (["c", "a", "b"], [3, 1, 2])]
)
def test_features_are_read_in_the_order_of_the_taps(taps, expected):
    output = ModelOutput("logits", {"a": 1, "b": 2, "c": 3})
    knowledge = mr.Feature("hint", student=taps, teacher="c")
    assert knowledge.read("student", output) == expected
    assert knowledge.read("teacher", output) == 3


@pytest.mark.parametrize(
    ("knowledge", "name", "weight", "adapter"),
    [
        (lambda: mr.Response(), "kd", 1.0, None),
        (lambda: mr.Response("logit_mse"), "logit_mse", 1.0, None),
        (lambda: mr.Feature("hint", at="a"), "hint", 100.0, "conv_regressor"),
        (lambda: mr.Relation("rkd_distance", at="a"), "rkd_distance", 25.0, None),
        (lambda: mr.Relation("rkd_angle", at="a"), "rkd_angle", 50.0, None),
        (lambda: mr.Feature("hint", at="a", adapter=None, weight=0), "hint", 0.0, None),
        (
            lambda: mr.Feature(mr.losses.Hint(name="first"), at="a"),
            "first",
            100.0,
            "conv_regressor",
        ),
        (
            lambda: mr.Feature("hint", at="a", adapter="linear_embedding", name="mine", weight=2),
            "mine",
            2.0,
            "linear_embedding",
        ),
    ],
)
def test_weight_adapter_and_name_come_with_the_loss_unless_given(knowledge, name, weight, adapter):
    knowledge = knowledge()
    assert (knowledge.name, float(knowledge.weight)) == (name, weight)
    assert getattr(knowledge.adapter, "identifier", None) == adapter


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": "hind"}, ValueError, "Unknown loss identifier"),
        ({"loss": 3}, TypeError, "loss must be an instance of Loss"),
        ({"loss": "hint", "adapter": "conv"}, ValueError, "Unknown adapter identifier"),
        ({"loss": "hint", "adapter": keras.layers.Dense(3)}, TypeError, "an instance of Adapter"),
        ({"loss": "hint", "weight": -1}, ValueError, "weight of Feature must be a number that is"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        mr.Feature(at="a", **arguments)


@pytest.mark.parametrize(
    "build",
    [
        lambda: mr.Response(mr.losses.KD(temperature=2.0), weight=0.9, name="soft"),
        lambda: mr.Response("kd", weight=mr.schedules.Linear(0.0, 1.0, steps=10)),
        lambda: mr.Feature("hint", student=["a", "b"], teacher="c", weight=3),
        lambda: mr.Feature("hint", at="a", adapter=None),
        lambda: mr.Relation("rkd_angle", at="a", adapter=mr.adapters.LinearEmbedding(units=4)),
    ],
    ids=["response", "schedule", "feature", "without adapter", "relation"],
)
def test_config_gives_an_equal_knowledge(build, round_trip):
    knowledge = build()
    again = round_trip(knowledge)
    assert type(again) is type(knowledge)
    assert again.get_config() == knowledge.get_config()
    for role in ("student", "teacher"):
        assert again.taps(role) == knowledge.taps(role)


def test_config_keeps_a_weight_that_was_changed(round_trip):
    knowledge = mr.Response("kd", weight=0.9)
    knowledge.weight = 0.5
    assert float(round_trip(knowledge).weight) == 0.5


def test_the_value_is_the_losss_own_and_unweighted(random):
    teacher, student = random.normal(size=(2, 4, 5)).astype("float32")
    values = mr.Response("kd", weight=7.0)(student, teacher)
    np.testing.assert_allclose(values, mr.losses.KD().call(teacher, student), rtol=1e-6)


def test_the_loss_compares_what_the_adapter_made(random):
    student = random.normal(size=(3, 6, 6, 4)).astype("float32")
    teacher = random.normal(size=(3, 4, 4, 5)).astype("float32")
    knowledge = mr.Feature("hint", at="a")
    knowledge.build(student.shape, teacher.shape)
    regressed, _ = knowledge.adapter(student, teacher, training=True)
    expected = ((np.array(regressed) - teacher) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(knowledge(student, teacher, training=True), expected, rtol=1e-4)


def test_labels_go_to_a_loss_that_needs_them():
    class LabelOnly(mr.losses.Loss):
        identifier = "label_only"
        needs_labels = True

        def per_sample(self, teacher, student, labels=None):
            return 0.0 * student[:, 0] + keras.ops.cast(labels, "float32")

    values = mr.Response(LabelOnly())(np.ones((3, 2)), np.ones((3, 2)), labels=np.array([4, 5, 6]))
    np.testing.assert_array_equal(values, [4.0, 5.0, 6.0])


def test_logits_of_other_numbers_of_classes_are_refused_in_build():
    message = "Knowledge 'kd' compares logits.* a student with 10 and a teacher with 12"
    with pytest.raises(ValueError, match=message):
        mr.Response("kd").build((None, 10), (None, 12))


def test_build_creates_the_adapters_weights_once():
    knowledge = mr.Feature("hint", at="a")
    for _ in range(2):
        knowledge.build((None, 8, 8, 3), (None, 4, 4, 5))
    assert len(knowledge.trainable_variables) == 4


def test_variables_hold_the_knobs_of_knowledge_and_loss_and_the_adapter():
    response = mr.Response(mr.losses.KD(temperature=2.0), weight=0.5)
    assert sorted(variable.name for variable in response.variables) == ["temperature", "weight"]
    assert response.trainable_variables == []
    feature = mr.Feature("hint", at="a")
    feature.build((None, 4, 4, 3), (None, 4, 4, 5))
    assert [v.name for v in feature.trainable_variables] == ["kernel", "bias", "gamma", "beta"]
    assert "weight" in {v.name for v in feature.non_trainable_variables}


def test_saved_weights_bring_the_knobs_back(tmp_path):
    def holder(weight, temperature):
        knowledge = mr.Response(mr.losses.KD(temperature=temperature), weight=weight)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.knowledge = knowledge
        return model

    model = holder(0.5, 2.0)
    model.knowledge.weight, model.knowledge.loss.temperature = 0.25, 8.0
    model.save_weights(tmp_path / "knobs.weights.h5")
    restored = holder(1.0, 1.0)
    restored.load_weights(tmp_path / "knobs.weights.h5")
    assert float(restored.knowledge.weight) == 0.25
    assert float(restored.knowledge.loss.temperature) == 8.0


@pytest.mark.usefixtures("mixed_bfloat16")
def test_knowledge_is_float32_under_a_policy_of_low_precision(random):
    student, teacher = random.normal(size=(2, 4, 5)).astype("float32")
    values = mr.Response("kd")(student, teacher)
    np.testing.assert_allclose(values, mr.losses.KD().call(teacher, student), rtol=1e-6)
