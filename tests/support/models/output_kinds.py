"""Small networks and labels of each kind of output."""

import keras
import numpy as np

import modreduce_keras as mr

X = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
SEVERAL_HOT = (np.random.default_rng(1).random((12, 5)) < 0.4).astype("float32")
ONE_HOT = np.eye(5, dtype="float32")[np.arange(12) % 5]


def net(units=5, shape=(6,), width=4, name=None):
    """A small network; for images one that keeps height and width."""
    inputs = keras.Input(shape)
    hidden = keras.layers.Dense(width, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(units, name="head")(hidden), name=name)


def bce():
    return keras.losses.BinaryCrossentropy(from_logits=True)


def standing():
    return keras.optimizers.SGD(0.0)


def own_loss(y, z):
    return keras.ops.mean(keras.ops.square(keras.ops.sigmoid(z) - y), axis=-1)


def peers(units=5, number=2, **arguments):
    students = {name: net(units) for name in "abcd"[:number]}
    return mr.PeerDistiller(students, features_at="hidden", **arguments)


def predicted(distiller):
    return {name: one.predict(X, verbose=0) for name, one in distiller.students.items()}


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
