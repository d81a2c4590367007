"""What taps and outputs cannot be compared is refused in our words, with what mends it."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components
from modreduce_keras.symbolic import output_spec

L = keras.layers
ONE = [
    name
    for name, cls in components("loss").items()
    if (cls.one_feature or name == "srrl") and cls.kind != "response" and name != "crd"
]


def convolutional(width):
    inputs = keras.Input((8, 8, 3))
    first = L.Conv2D(width, 3, padding="same", name="first")(inputs)
    second = L.Conv2D(width, 3, padding="same", name="second")(first)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(second)))


def segmenting(size):
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, strides=8 // size, padding="same", name="maps")(inputs)
    return keras.Model(inputs, L.Conv2D(4, 1)(x))


def sequence(stride):
    inputs = keras.Input((8, 3))
    return keras.Model(inputs, L.Conv1D(4, 3, strides=stride, padding="same")(inputs))


def running_twice():
    inputs = keras.Input((4,))
    shared = L.Dense(4, name="shared")
    return keras.Model(inputs, L.Dense(3)(shared(shared(inputs))))


@pytest.fixture(scope="module")
def pair():
    return {"student": convolutional(4), "teacher": convolutional(4)}


@pytest.mark.parametrize("loss", ONE)
def test_a_list_of_taps_for_a_loss_of_one_is_refused(loss, pair):
    kind = mr.Relation if mr.losses.get(loss).kind == "relation" else mr.Feature
    with pytest.raises(ValueError, match=r"takes one feature of each model.*at='stage2'") as error:
        mr.Distiller(**pair, knowledge=[kind(loss, at=["first", "second"])])
    assert "a list of 2" in str(error.value)


def test_each_further_tap_is_a_knowledge_of_its_own(pair):
    hints = [mr.Feature("hint", at="first"), mr.Feature("hint", at="second", name="second")]
    assert len(mr.Distiller(**pair, knowledge=hints).knowledge["student"]) == 2


def test_a_list_of_outputs_of_the_student_is_refused(pair):
    with pytest.raises(ValueError, match="KD takes one feature of each model"):
        mr.Distiller(**pair, knowledge=[mr.Response("kd", at=["first", "second"])])


@pytest.mark.parametrize(
    ("student", "teacher", "layer"),
    [
        (segmenting(8), segmenting(4), "Resizing(8, 8)"),
        (segmenting(4), segmenting(8), "Resizing(4, 4)"),
        (sequence(1), sequence(2), "UpSampling1D(2)"),
        (sequence(2), sequence(1), "AveragePooling1D(2)"),
    ],
    ids=["larger", "smaller", "longer", "shorter"],
)
def test_logits_of_another_resolution_name_the_layer_that_mends_it(student, teacher, layer):
    with pytest.raises(ValueError, match="compares logits position by position") as error:
        mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    call = f"keras.Model(teacher.input, keras.layers.{layer}(teacher.output))"
    assert call in str(error.value)
    resized = eval(call, {"keras": keras, "teacher": teacher})
    mr.Distiller(student=student, teacher=resized, knowledge=[mr.Response("kd")])


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_tap_of_a_layer_that_runs_twice_names_its_calls(role):
    taps = {"student": "shared:0", "teacher": "shared:1", role: "shared"}
    with pytest.raises(ValueError, match=rf"^Tap 'shared' of the {role}.* ran 2 times") as error:
        mr.Distiller(
            student=running_twice(),
            teacher=running_twice(),
            knowledge=[mr.Feature("hint", adapter=None, **taps)],
        )
    assert "['shared:0', 'shared:1']" in str(error.value)
    taps[role] = "shared:0"
    mr.Distiller(
        student=running_twice(),
        teacher=running_twice(),
        knowledge=[mr.Feature("hint", adapter=None, **taps)],
    )


class Failing(keras.layers.Layer):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def call(self, *args, **kwargs):
        raise self.error


class FailingModel(keras.Model):
    def call(self, inputs):
        raise ValueError("the student's own words")


@keras.saving.register_keras_serializable("tests")
class FailingLoss(mr.losses.Loss):
    identifier = "failing"

    def per_sample(self, teacher, student, labels=None):
        raise ValueError("the loss's own words")


class FailingAggregator(mr.aggregators.Aggregator):
    identifier = "failing"

    def call(self, logits):
        raise ValueError("the aggregator's own words")


class FailingAdapter(mr.adapters.Adapter):
    identifier = "failing"

    def call(self, student, teacher, training=None):
        raise ValueError("the adapter's own words")


@pytest.mark.parametrize("error", [ValueError("a"), TypeError("b"), RuntimeError("c")])
def test_a_symbolic_run_raises_what_the_layer_raised(error):
    with pytest.raises(type(error)) as raised:
        output_spec(Failing(error), keras.KerasTensor((None, 3)))
    assert raised.value is error


def test_messages_do_not_begin_with_advice_to_authors_of_layers(pair):
    students = [mr.models.convnet(num_classes=3, widths=(2,), name=name) for name in "ab"]
    built = mr.models.convnet(num_classes=3, widths=(2,))
    failures = {
        "loss": lambda: mr.Distiller(**pair, knowledge=[mr.Feature(FailingLoss(), at="first")]),
        "adapter": lambda: mr.Distiller(
            **pair, knowledge=[mr.Feature("hint", at="first", adapter=FailingAdapter())]
        ),
        "aggregator": lambda: mr.PeerDistiller(students, aggregator=FailingAggregator()),
        "student": lambda: mr.Distiller(
            student=FailingModel(), teacher=built, knowledge=[mr.Response("kd")]
        ),
    }
    for part, failing in failures.items():
        with pytest.raises(ValueError, match=rf"the {part}'s own words") as error:
            failing()
        assert "automatically infer" not in str(error.value)
        assert "compute_output_spec" not in str(error.value)


def test_sizes_that_are_alike_are_not_refused():
    student, teacher = segmenting(8), segmenting(8)
    built = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    built.compile("sgd")
    assert built.train_on_batch(np.ones((2, 8, 8, 3)), return_dict=True)["kd"] >= 0.0
