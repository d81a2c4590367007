"""Tests of `as_logits`, on models of Keras and on our own, against the models themselves."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

L = keras.layers


def nested(**arguments):
    head = keras.Sequential([keras.Input((4,)), L.Dense(3, **arguments)], name="head")
    return keras.Sequential([keras.Input((5,)), L.Dense(4, activation="relu"), head])


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


def test_what_cannot_be_taken_apart_is_refused():
    with pytest.raises(ValueError, match=r"as_logits takes a functional .* Received: 'teacher'"):
        mr.models.as_logits("teacher")
    inner = keras.Sequential([keras.Input((5,)), L.Dense(3), L.Softmax()])
    with pytest.raises(ValueError, match=r"The Softmax that ends .* lies in a nested model"):
        mr.models.as_logits(keras.Sequential([keras.Input((5,)), inner]))
