"""The smallest trainings that there are: a plain Keras model and a distiller, run eagerly."""

import keras
import numpy as np

import modreduce_keras as mr


def net(seed):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed)),
        ]
    )


def plain(seed, optimizer=None):
    model = net(seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.5, momentum=0.9), loss, run_eagerly=True)
    return model


def distiller(seed, optimizer=None):
    model = mr.Distiller(student=net(seed), teacher=net(50), knowledge=[mr.Response("kd")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.5, momentum=0.9), loss, run_eagerly=True)
    return model


def values(model):
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in model.variables]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.tobytes() == b.tobytes()
