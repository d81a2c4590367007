"""Small networks, with BatchNorm and dropout, that the tests of callbacks train."""

import keras
import numpy as np
import pytest


@pytest.fixture
def net():
    """Builds a small network for 4 numbers and 3 classes."""

    def build(name, num_classes=3, width=5):
        layers = keras.layers
        inputs = keras.Input((4,))
        hidden = layers.BatchNormalization()(layers.Dense(width, activation="relu")(inputs))
        hidden = layers.Dropout(0.3)(hidden)
        return keras.Model(inputs, layers.Dense(num_classes, name="logits")(hidden), name=name)

    return build


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(size=(22, 4)).astype("float32")


@pytest.fixture
def labels():
    return np.arange(22) % 3


@pytest.fixture
def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
