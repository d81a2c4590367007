"""Small models to prune."""

import keras
from keras import layers

import modreduce_keras as mr


def small(**arguments):
    given = {"num_classes": 3, "widths": (4, 6), "input_shape": (8, 8, 1), **arguments}
    return mr.models.get("convnet", **given)


def dense(**arguments):
    stack = [layers.Dense(4, name="hidden", **arguments), layers.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((5,), name="x"), *stack])


def linear():
    return keras.Sequential([keras.Input((5,)), layers.Dense(3, use_bias=False, name="logits")])
