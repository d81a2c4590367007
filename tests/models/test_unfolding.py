"""Tests of unfolding layers that are made of other layers."""

import keras
import numpy as np
import pytest
from keras import ops

from modreduce_keras.models.unfolding import unfolded


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    """A dense layer and a scale, which may be another one in training."""

    def __init__(self, scale, in_training, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.in_training = scale, in_training
        self.dense = keras.layers.Dense(3)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs, training=None):
        return self.dense(inputs) * (self.in_training if training else self.scale)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "in_training": self.in_training}


@pytest.mark.parametrize(("in_training", "is_unfolded"), [(0.5, True), (2.0, False)])
def test_a_number_that_differs_in_training_is_another_computation(in_training, is_unfolded, random):
    layer = Scaled(0.5, in_training)
    model = keras.Sequential([keras.Input((4,)), layer])
    made = unfolded(layer)
    assert (made is not None) == is_unfolded
    if made is not None:
        x = random.normal(size=(5, 4)).astype("float32")
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(made.model.predict(x, verbose=0), expected, rtol=1e-6)


@keras.saving.register_keras_serializable("tests")
class Made(keras.layers.Layer):
    """A dense layer and what a function of the tests makes of its result."""

    def __init__(self, kind, differs, **kwargs):
        super().__init__(**kwargs)
        self.kind, self.differs = kind, differs
        self.dense = keras.layers.Dense(3)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs, training=None):
        values = self.dense(inputs)
        return KINDS[self.kind](values, bool(training) and self.differs)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "differs": self.differs}


MANY = np.ones((1, 2000, 3), "float32")
OTHER = np.where(np.arange(2000)[:, None] == 1000, np.float32(2.0), MANY)
"""NumPy leaves out the middle of both when it prints them."""

KINDS = {
    "limits of a clip": lambda x, other: ops.clip(x, 0.0, 3.0 if other else 6.0),
    "a slope": lambda x, other: ops.leaky_relu(x, 0.3 if other else 0.1),
    "an axis": lambda x, other: x + ops.softmax(x, axis=0 if other else -1),
    "an array": lambda x, other: ops.mean(x[:, None] * (OTHER if other else MANY), axis=1),
    "a slice": lambda x, other: x[:, :2] if other else x[:, 1:],
    "a layer of `call`": lambda x, other: keras.layers.ReLU(3.0 if other else 6.0)(x),
    "what is added": lambda x, other: (ops.relu(x) + x) + (x if other else ops.relu(x)),
    "what is returned": lambda x, other: [ops.relu(x), ops.tanh(x)][other],
}


@pytest.mark.parametrize("differs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_other_settings_of_an_operation_in_training_are_seen(kind, differs, random):
    layer = Made(kind, differs)
    model = keras.Sequential([keras.Input((4,)), layer])
    made = unfolded(layer)
    assert (made is None) == differs
    if made is not None:
        x = random.normal(size=(5, 4)).astype("float32")
        np.testing.assert_allclose(made.model.predict(x, verbose=0), model(x), rtol=1e-5, atol=1e-6)
