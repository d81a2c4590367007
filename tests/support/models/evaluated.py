"""Distillers of dense students that are evaluated on labels, and what is made of logits."""

import keras
import numpy as np

import modreduce_keras as mr

BINARY = keras.losses.BinaryCrossentropy(from_logits=True)


ONE_HOT = keras.losses.CategoricalCrossentropy(from_logits=True)


SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense_net(units, activation=None, name=None):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation)], name=name)


def yes_or_no(random, *shape):
    return random.integers(0, 2, shape).astype("float32")


def distilled(student, loss, metrics, taught="logit_mse", **arguments):
    teacher = keras.models.clone_model(student)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response(taught)])
    distiller.compile("sgd", loss, metrics=metrics, **arguments)
    return distiller


def evaluated(distiller, x, y, **arguments):
    return distiller.evaluate(x, y, batch_size=7, verbose=0, return_dict=True, **arguments)


def logits_of(student, x):
    return student.predict(x, verbose=0).astype("float64")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)
