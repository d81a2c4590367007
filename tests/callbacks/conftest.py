"""Small networks, with BatchNorm and dropout, that the tests of callbacks train."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


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


@pytest.fixture
def teacher(net):
    return net("teacher", width=7)


@pytest.fixture
def peers(net, teacher, cross_entropy):
    """A compiled group of three students with a teacher."""

    def build(run_eagerly=True, **arguments):
        names = ("a", "b", "c")
        arguments = {"teacher": teacher, "aggregator": "weighted_average", **arguments}
        if arguments["teacher"] is not None:
            arguments.setdefault("knowledge", {name: [mr.Response("kd")] for name in names})
        peers = mr.PeerDistiller({name: net(name) for name in names}, **arguments)
        optimizer = keras.optimizers.SGD(0.3)
        peers.compile(optimizer, cross_entropy, metrics=["accuracy"], run_eagerly=run_eagerly)
        return peers

    return build
