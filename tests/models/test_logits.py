"""Tests of `as_logits`, on models of Keras and on our own, against the models themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.models.headed import LOGITS, PROBABILITIES

L = keras.layers


def nested(**arguments):
    head = keras.Sequential([keras.Input((4,)), L.Dense(3, **arguments)], name="head")
    return keras.Sequential([keras.Input((5,)), L.Dense(4, activation="relu"), head])


def nested_softmax():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(3), L.Softmax()])
    return keras.Sequential([keras.Input((5,)), inner, L.Dropout(0.5)])


@keras.saving.register_keras_serializable("tests")
class Task(keras.Model):
    """A functional model of a class of its own, as those of keras-hub."""

    def __init__(self, activation, **arguments):
        inputs = keras.Input((5,))
        backbone = keras.Sequential([keras.Input((5,)), L.Dense(4, "relu")], name="backbone")
        super().__init__(inputs, L.Dense(3, activation=activation)(backbone(inputs)), **arguments)
        self.activation = activation

    def get_config(self):
        return {"activation": self.activation}


def by_ops():
    inputs = keras.Input((5,))
    return keras.Model(inputs, keras.ops.softmax(L.Dense(3)(inputs)))


MODELS = {
    "dense": lambda: keras.Sequential([keras.Input((5,)), L.Dense(3, activation="softmax")]),
    "activation": lambda: keras.Sequential(
        [keras.Input((5,)), L.Dense(3), L.Activation("softmax", dtype="float32")]
    ),
    "layer": lambda: keras.Sequential([keras.Input((5,)), L.Dense(3), L.Softmax()]),
    "operation": by_ops,
    "nested": lambda: nested(activation="softmax"),
    "nested layer": lambda: nested_softmax(),
    "nested operation": lambda: keras.Sequential([keras.Input((5,)), by_ops()]),
    "activation of TensorFlow": lambda: keras.Sequential(
        [keras.Input((5,)), L.Dense(3, activation=tf.nn.softmax)]
    ),
    "task": lambda: Task(activation="softmax"),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_softmax_of_its_logits_is_what_the_model_gives(make, random, tmp_path):
    model, x = make(), random.normal(size=(4, 5)).astype("float32")
    before = keras.ops.convert_to_numpy(model(x))
    logits = mr.models.as_logits(model)
    found = keras.ops.convert_to_numpy(logits(x))
    np.testing.assert_allclose(keras.ops.softmax(found), before, rtol=1e-5)
    assert np.ptp(found.sum(axis=-1)) > 1e-3  # no probabilities
    np.testing.assert_array_equal(model(x), before)
    logits.save(tmp_path / "logits.keras")
    loaded = keras.saving.load_model(tmp_path / "logits.keras")
    np.testing.assert_allclose(loaded(x), found, rtol=1e-6)
    mr.Distiller(student=nested(), teacher=logits)


def test_a_sigmoid_goes_and_logits_stay(random):
    x = random.normal(size=(4, 5)).astype("float32")
    model = keras.Sequential([keras.Input((5,)), L.Dense(1, activation="sigmoid")])
    np.testing.assert_allclose(
        keras.ops.sigmoid(mr.models.as_logits(model)(x)), model(x), rtol=1e-5
    )
    model = nested()
    np.testing.assert_array_equal(mr.models.as_logits(model)(x), model(x))


def test_a_copy_of_a_model_of_its_own_class_is_one():
    assert type(mr.models.copy_model(Task(activation=None))) is Task
    nested = keras.Sequential([keras.Input((5,)), Task(activation=None), L.Softmax()])
    assert type(mr.models.as_logits(nested).layers[0]) is Task


@keras.saving.register_keras_serializable(package="tests")
class Forgetful(keras.Model):
    """A class whose config leaves an argument out, as of EfficientNet in keras-hub."""

    def __init__(self, units=4, **arguments):
        inputs = keras.Input((5,))
        x = L.BatchNormalization()(L.Dense(units)(inputs))
        super().__init__(inputs, L.Dense(3, activation="softmax")(x), **arguments)

    def get_config(self):
        return {"name": self.name}


def test_a_copy_has_the_shapes_of_the_model_whatever_its_config_says(random):
    x = random.normal(size=(4, 5)).astype("float32")
    for model in (Forgetful(6), keras.Sequential([keras.Input((5,)), Forgetful(6)])):
        np.testing.assert_array_equal(mr.models.copy_model(model)(x), model(x))
        found = keras.ops.softmax(mr.models.as_logits(model)(x))
        np.testing.assert_allclose(found, model(x), rtol=1e-5)


# Those that their configs do not describe cannot be copied.
@pytest.mark.parametrize("kind", ["log of probabilities", "ReLU", "tanh", "subclassed", "scaled"])
def test_a_model_that_gives_logits_is_copied(kind):
    model = LOGITS[kind]()
    copy = mr.models.as_logits(model)
    assert copy is not model
    x = np.arange(8.0, dtype="float32").reshape(2, 4)
    np.testing.assert_array_equal(copy(x), model(x))


REFUSED = {
    "Lambda": r"come from 'lambda\S*' \(Lambda\)",
    "operations": r"'\S*divide\S*' \(\w+\)",
    "clipped": r"'\S*clip\S*' \(Clip\)",
    "smoothed": r"'add\S*' \(Add\)",
    "layer of one's own": r"'clipped\S*' \(Clipped\)",
    "Dense of one's own": r"'softmax_dense\S*' \(SoftmaxDense\)",
    "functional with a call of its own": r"\(OwnCall\)",
    "average of softmaxes": r"'average\S*' \(Average\)",
    "average of sigmoids": r"'average\S*' \(Average\)",
    "subclassed softmax": r"\(Subclassed\). Have it return",
    "normalized before": None,
}


@pytest.mark.parametrize("kind", PROBABILITIES)
def test_probabilities_lose_their_ending_or_are_refused_by_name(kind):
    model = PROBABILITIES[kind]()
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    if REFUSED.get(kind):
        with pytest.raises(ValueError, match=REFUSED[kind]):
            mr.models.as_logits(model)
        return
    try:
        logits = mr.models.as_logits(model)
    except ValueError as error:
        assert "as_logits cannot remove" in str(error)
        assert kind in ("nested functional with a call of its own", *SUBCLASSED)
        return
    found = keras.ops.convert_to_numpy(logits(x))
    assert np.abs(found.sum(axis=-1) - 1).max() > 1e-2


SUBCLASSED = ("subclassed sigmoids", "Sequential around a subclassed")


def test_a_softmax_of_another_axis_than_what_follows_is_refused():
    inputs = keras.Input((2, 3))
    model = keras.Model(inputs, L.Permute((2, 1))(L.Softmax()(inputs)))
    with pytest.raises(ValueError, match="as_logits cannot remove"):
        mr.models.as_logits(model)


def test_what_is_no_model_or_has_several_outputs_is_refused():
    with pytest.raises(ValueError, match=r"as_logits takes a built Keras model.* Received: 'teac"):
        mr.models.as_logits("teacher")
    inputs = keras.Input((5,))
    model = keras.Model(inputs, [L.Dense(3)(inputs), L.Dense(2)(inputs)])
    with pytest.raises(ValueError, match=r"with one output; .* with 2$"):
        mr.models.as_logits(model)


def test_a_rounded_model_is_told_to_be_rounded_last():
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, activation="softmax")])
    with pytest.raises(ValueError, match=r"mr.quantize_aware\(mr.models.as_logits\(student\), "):
        mr.models.as_logits(mr.quantize_aware(model))
    assert mr.quantize_aware(mr.models.as_logits(model)).output.shape == (None, 2)
