"""Distillers whose teacher and student have more state than weights."""

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr
from tests.support.models.stateful import MAKERS

CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def distiller_of(student, teacher, teacher_dtype=None):
    made = mr.Distiller(
        student=student,
        teacher=teacher,
        knowledge=[mr.Response("kd")],
        teacher_dtype=teacher_dtype,
    )
    made.compile("sgd", CE, run_eagerly=True)
    return made


def distiller(teacher, state, **arguments):
    return distiller_of(MAKERS[state](), teacher, **arguments)


def trained_on(made, state):
    x, y = MAKERS[state].data, np.arange(16) % 3
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    return made.fit(data, shuffle=False, verbose=0).history["kd"][0]
