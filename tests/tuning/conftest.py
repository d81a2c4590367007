"""What the tests of searches share: a tiny teacher, data, and distillers made from `hp`."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

CLASSES = 3


def dense(name, units=4):
    """Returns a network of two layers from four numbers to logits."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(hidden), name=name)


@pytest.fixture
def network():
    return dense


@pytest.fixture
def data():
    source = np.random.default_rng(0)
    x = source.normal(size=(48, 4)).astype("float32")
    return x, x[:, :CLASSES].argmax(axis=1)


@pytest.fixture
def teacher():
    return dense("teacher", 8)


@pytest.fixture
def build(teacher):
    """A hypermodel's function over temperature and weight."""

    def make(hp):
        space = mr.tuning.Space(hp)
        kd = mr.losses.KD(temperature=space.temperature())
        response = mr.Response(kd, weight=space.weights(["kd"])["kd"])
        distiller = mr.Distiller(student=dense("student"), teacher=teacher, knowledge=[response])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], run_eagerly=True)
        return distiller

    return make


@pytest.fixture
def run(data):
    """Runs a search on the data, quietly."""

    def quietly(search, **arguments):
        x, y = data
        given = {"validation_data": (x[:32], y[:32]), "epochs": 1, "batch_size": 16, "verbose": 0}
        return search.run(x, y, **given | arguments)

    return quietly


@pytest.fixture
def build_peers():
    """A hypermodel's function of two peers, over aggregator and weight."""

    def make(hp):
        space = mr.tuning.Space(hp)
        distiller = mr.PeerDistiller(
            {name: dense(name) for name in ("small", "large")},
            aggregator=space.aggregator(["mean", "mutual"]),
            online_weight=space.weights(["online"])["online"],
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"], run_eagerly=True)
        return distiller

    return make
