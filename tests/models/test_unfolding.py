"""Tests of unfolding layers that are made of other layers."""

import keras
import numpy as np
import pytest

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
    if is_unfolded:
        x = random.normal(size=(5, 4)).astype("float32")
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(made.predict(x, verbose=0), expected, rtol=1e-6)
