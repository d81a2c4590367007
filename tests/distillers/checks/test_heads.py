"""Tests of how probabilities are told from logits: by value, wherever the graph does not say."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.checks import heads
from modreduce_keras.models import head_kinds
from modreduce_keras.models.graph import input_specs
from tests.support.models.headed import (
    LOGITS,
    PROBABILITIES,
    Subclassed,
    called,
    dense_net,
    functional,
    saved,
)

L = keras.layers
REFUSED = r"The {} .* ends in a softmax or sigmoid"


def kd():
    return mr.Response("kd")


@pytest.mark.parametrize("head", PROBABILITIES)
def test_probabilities_are_refused_of_teachers_and_students(head):
    model = PROBABILITIES[head]()
    with pytest.raises(ValueError, match=REFUSED.format("teacher")):
        mr.Distiller(student=dense_net(), teacher=model, knowledge=[kd()])
    with pytest.raises(ValueError, match=REFUSED.format("student 'student'")):
        mr.Distiller(student=model, teacher=dense_net(), knowledge=[kd()])


@pytest.mark.parametrize("head", LOGITS)
def test_logits_are_taken_of_teachers_and_students(head):
    mr.Distiller(student=LOGITS[head](), teacher=LOGITS[head](), knowledge=[kd()])


def test_probabilities_of_a_saved_model(tmp_path):
    for activation in ("softmax", "sigmoid"):
        model = saved(dense_net(activation), str(tmp_path / activation))
        with pytest.raises(ValueError, match=REFUSED.format("teacher")):
            mr.Distiller(student=dense_net(), teacher=model, knowledge=[kd()])
    mr.Distiller(
        student=dense_net(), teacher=saved(dense_net(), str(tmp_path / "logits")), knowledge=[kd()]
    )


@pytest.mark.parametrize(
    "last",
    [
        lambda: L.TimeDistributed(L.Dense(3, "softmax")),
        lambda: L.TimeDistributed(L.Dense(3, tf.nn.softmax)),
        lambda: L.Dense(3, "softmax"),
        lambda: L.Conv1D(3, 1, activation=tf.nn.sigmoid),
    ],
)
def test_probabilities_for_each_position(last):
    tokens = keras.Sequential([keras.Input((5, 4)), L.Dense(3)])
    model = keras.Sequential([keras.Input((None, 4)), last()])
    with pytest.raises(ValueError, match=REFUSED.format("teacher")):
        mr.Distiller(student=tokens, teacher=model, knowledge=[kd()])


def test_one_class_of_a_softmax_is_no_number():
    with pytest.raises(ValueError, match=REFUSED.format("teacher")):
        mr.Distiller(
            student=dense_net(units=1),
            teacher=dense_net(tf.nn.softmax, 1),
            knowledge=[mr.Response("logit_mse")],
        )


@pytest.fixture
def bad():
    """A model whose softmax no layer names; its layer `logits` gives logits."""
    return functional(L.Lambda(lambda z: keras.ops.softmax(z), name="probabilities"))


def refused_teacher(model):
    return pytest.raises(ValueError, match=f"The teacher {model.name!r} ends in a softmax or sig")


def test_probabilities_among_several_teachers(bad):
    good = dense_net(name="good")
    for taught in (
        kd(),
        mr.Response("kd", teacher=bad.name),
        mr.Response("kd", teacher=["good", bad.name]),
    ):
        with refused_teacher(bad):
            mr.Distiller(student=dense_net(), teacher=[good, bad], knowledge=[taught])
    mr.Distiller(
        student=dense_net(), teacher=[good, bad], knowledge=[mr.Response("kd", teacher="good")]
    )
    mr.Distiller(
        student=dense_net(),
        teacher=[good, bad],
        knowledge=[mr.Response("kd", teacher=f"{bad.name}/logits")],
    )


def test_probabilities_of_a_cached_teacher(bad, tmp_path):
    with refused_teacher(bad):
        mr.Distiller(
            student=dense_net(), teacher=mr.data.TeacherCache(tmp_path, bad), knowledge=[kd()]
        )


def test_a_tap_is_judged_by_itself(bad):
    """The layer before a softmax gives logits; a softmax inside of a model does not."""
    mr.Distiller(
        student=functional(L.Lambda(lambda z: z)),
        teacher=bad,
        knowledge=[mr.Response("kd", at="logits")],
    )
    with pytest.raises(
        ValueError, match=r"softmax or sigmoid at 'probabilities'.* a tap before 'pro"
    ):
        mr.Distiller(
            student=functional(L.Activation("linear")),
            teacher=bad,
            knowledge=[mr.Response("kd", student="logits", teacher="probabilities")],
        )


def test_named_outputs_are_judged_one_by_one(bad):
    outputs = {"shape": bad.output, "shade": bad.get_layer("logits").output}
    teacher, student = keras.Model(bad.inputs[0], outputs), two_heads()
    mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd", at="shade")])
    with pytest.raises(ValueError, match=r"ends in a softmax or sigmoid at 'shape'"):
        mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd", at="shape")])


def two_heads():
    inputs = keras.Input((4,))
    return keras.Model(inputs, {name: L.Dense(3)(inputs) for name in ("shape", "shade")})


def test_probabilities_of_a_student_with_a_dict_inside_a_class():
    class TwoHeads(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = L.Dense(3, name="first"), L.Dense(3, "softmax", name="second")

        def call(self, inputs):
            return {"shape": self.first(inputs["a"]), "shade": self.second(inputs["b"])}

    model = TwoHeads()
    model({name: np.zeros((1, 4), "float32") for name in "ab"})
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    teacher = keras.Model(inputs, {n: L.Dense(3)(inputs["a"]) for n in ("first", "second")})
    mr.Distiller(student=model, teacher=teacher, knowledge=[mr.Response("kd", at="first")])
    with pytest.raises(ValueError, match=r"student 'student'.* softmax or sigmoid at 'second'"):
        mr.Distiller(student=model, teacher=teacher, knowledge=[mr.Response("kd", at="second")])


def test_probabilities_of_models_that_teach_themselves_or_one_another(bad):
    with pytest.raises(ValueError, match=REFUSED.format("student 'b'")):
        mr.PeerDistiller({"a": dense_net(), "b": bad})
    with pytest.raises(ValueError, match=REFUSED.format("model")):
        mr.MeanTeacher(bad)
    inputs = keras.Input((8, 8, 1))
    maps = [inputs]
    for stage in (1, 2):
        maps.append(L.Conv2D(4, 3, strides=2, padding="same", name=f"stage{stage}")(maps[-1]))
    ending = L.Dense(3, tf.nn.softmax)(L.GlobalAveragePooling2D()(maps[-1]))
    with pytest.raises(ValueError, match=REFUSED.format("model")):
        mr.SelfDistiller(keras.Model(inputs, ending), ["stage1"])


@pytest.mark.parametrize("loss", ["logit_mse", "logit_l1"])
@pytest.mark.parametrize("activation", ["sigmoid", tf.nn.sigmoid])
def test_a_regression_from_0_to_1_is_compared_as_it_is(loss, activation, random):
    student, teacher = (dense_net(activation, 2) for _ in range(2))
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response(loss)])
    distiller.compile("sgd", "mse")
    x, y = random.normal(size=(6, 4)).astype("float32"), random.uniform(size=(6, 2))
    logs = distiller.train_on_batch(x, y, return_dict=True)
    assert logs[loss] > 0
    with refused_teacher(teacher):
        mr.Distiller(
            student=dense_net(units=2),
            teacher=teacher,
            knowledge=[mr.Response(loss), mr.Response("kd")],
        )
    peers = {"a": dense_net(activation), "b": dense_net(activation)}
    mr.PeerDistiller(peers, aggregator="mutual", online_loss=loss)


def time_distributed():
    return keras.Sequential([keras.Input((5, 4)), L.TimeDistributed(L.Dense(3, "softmax"))])


def named_probabilities():
    heads = two_heads()
    return keras.Model(heads.input, {**heads.output, "shape": L.Softmax()(heads.output["shape"])})


def of_applications():
    return keras.applications.MobileNet(
        weights=None, classes=3, input_shape=(32, 32, 3), alpha=0.25, name="mobile"
    )


OTHERS = {
    "time distributed": (time_distributed, None),
    "dict": (named_probabilities, "shape"),
    "applications": (of_applications, None),
}


def outputs_of(model, output, inputs):
    values = model(inputs, training=False)  # predict would go on with what it has traced
    return keras.ops.convert_to_numpy(values if output is None else values[output])


@pytest.mark.parametrize(
    "case",
    [
        *PROBABILITIES,
        "time distributed",
        "dict",
        pytest.param("applications", marks=pytest.mark.slow),
    ],
)
def test_the_remedy_in_the_message_gives_the_logits(case, random):
    build, output = OTHERS.get(case) or (PROBABILITIES[case], None)
    model = build()
    inputs = random.normal(size=(3, *input_specs(model).shape[1:])).astype("float32")
    before = outputs_of(model, output, inputs).astype("float64")
    with pytest.raises(ValueError, match="ends in a softmax or sigmoid") as told:
        heads.of_model(model, output).require_logits(model, "teacher", output)
    call = re.search(r"(?:the logits are|the weights stay with) (.*)$", str(told.value))[1]
    names = {"teacher": model, "keras": keras}
    exec(call, names)
    mended = names["teacher"]
    assert heads.of_model(mended, output).head(output) == heads.LOGITS
    logits = outputs_of(mended, output, inputs).astype("float64")
    if case in ("hard sigmoid", "sparsemax"):  # their bounds are reached, and have no logits
        return
    sigmoid = 1 / (1 + np.exp(-logits))
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = sigmoid if "sigmoid" in case or case == "normalized before" else softmax
    np.testing.assert_allclose(expected, before, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "relu"])
def test_an_activation_that_was_set_to_a_name_is_told(name, tmp_path):
    def broken(name):
        model = dense_net(name="inner")
        model.layers[-1].activation = name
        return model

    outer = broken(name)
    with pytest.raises(ValueError, match="was set to a name, which Keras") as told:
        mr.Distiller(student=dense_net(), teacher=outer, knowledge=[kd()])
    call = re.search(r"the function: (.*?)\. Received: activation='\w+'$", str(told.value))[1]
    exec(call, {"teacher": outer, "keras": keras})
    mr.Distiller(student=dense_net(), teacher=outer, knowledge=[kd()])
    with pytest.raises(
        ValueError, match=r"of the student 'student' 'inner' .* student.get_layer\("
    ):
        mr.Distiller(student=broken(name), teacher=dense_net(), knowledge=[kd()])
    with pytest.raises(ValueError, match=r"of the student 'a' 'inner' was set to a name"):
        mr.PeerDistiller({"a": broken(name), "b": dense_net()})
    with pytest.raises(ValueError, match=r"of the teacher 'inner' was set to a name"):
        mr.Distiller(student=dense_net(), teacher=[dense_net(), broken(name)], knowledge=[kd()])
    cache = mr.data.TeacherCache(tmp_path, broken(name))
    data = tf.data.Dataset.from_tensor_slices(np.zeros((2, 4), "float32"))
    with pytest.raises(ValueError, match=r"of the teacher 'inner' was set to a name"):
        cache.fill(mr.data.with_index(data).batch(2))


def test_the_path_of_an_activation_in_a_nested_model(random):
    inner = L.TimeDistributed(L.Dense(3), name="each")
    inner = keras.Sequential([keras.Input((5, 4)), inner], name="inner")
    teacher = keras.Sequential([keras.Input((5, 4)), inner])
    inner.layers[-1].layer.activation = "linear"
    student = keras.Sequential([keras.Input((5, 4)), L.Dense(3)])
    with pytest.raises(ValueError, match="to a name") as told:
        mr.Distiller(student=student, teacher=teacher, knowledge=[kd()])
    call = (
        "teacher.get_layer('inner').get_layer('each').layer.activation = keras.activations.linear"
    )
    assert call in str(told.value)
    exec(call, {"teacher": teacher, "keras": keras})
    mr.Distiller(student=student, teacher=teacher, knowledge=[kd()])


# The cost


def test_probabilities_under_a_strategy(two_replicas):
    with two_replicas.scope():
        bad, good = (called(Subclassed(end)) for end in (tf.nn.sigmoid, None))
        with refused_teacher(bad):
            mr.Distiller(student=dense_net(), teacher=bad, knowledge=[kd()])
        mr.Distiller(student=good, teacher=dense_net(), knowledge=[kd()])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_probabilities_in_half_precision(policy):
    for ending in (tf.nn.softmax, tf.nn.sigmoid):
        model = dense_net(ending, units=100)
        with refused_teacher(model):
            mr.Distiller(student=dense_net(units=100), teacher=model, knowledge=[kd()])
    mr.Distiller(student=dense_net(), teacher=called(Subclassed()), knowledge=[kd()])


def test_a_rounded_output_is_what_is_rounded_and_one_that_vanishes_says_nothing():
    for activation, head in ((None, head_kinds.LOGITS), ("softmax", head_kinds.SOFTMAX)):
        layers = [keras.Input((4,)), keras.layers.Dense(3, activation=activation)]
        aware = mr.quantize_aware(keras.Sequential(layers))
        assert head_kinds.of_all(aware.outputs) == head
    vanishing = np.linspace(-1e-11, 1e-11, 12).reshape(4, 3)
    assert head_kinds.by_values(vanishing, [vanishing]) is None
