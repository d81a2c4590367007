"""Models that the tests of branches divide, and what they compare."""

import keras
import numpy as np
from keras import layers

import modreduce_keras as mr


def convnet():
    return mr.models.get("convnet", num_classes=5, widths=(4, 6, 8), input_shape=(16, 16, 3))


def resnet():
    return mr.models.resnet(8, num_classes=5, widths=(4, 4, 6, 8), input_shape=(16, 16, 3))


def linear():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, use_bias=False, name="hidden"),
            layers.Dense(2, use_bias=False, name="logits"),
        ],
        name="linear",
    )


def two_inputs():
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    joined = layers.Concatenate(name="joined")([layers.Dense(3)(left), layers.Dense(2)(right)])
    hidden = layers.Dropout(0.5)(layers.Dense(4, activation="relu")(joined))
    outputs = {"wide": layers.Dense(2)(hidden), "narrow": layers.Dense(1)(joined)}
    return keras.Model({"left": left, "right": right}, outputs)


def nested():
    """A backbone inside, a Sequential inside, inputs without names, operators between layers."""
    maps = keras.Input((8, 8, 3))
    normalized = layers.BatchNormalization()(layers.Conv2D(4, 3)(maps))
    backbone = keras.Model(maps, normalized, name="backbone")
    neck = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()], name="neck")
    images = keras.Input((8, 8, 3))
    shared = layers.Dense(4, name="twice")
    hidden = shared(shared(neck(keras.ops.tanh(backbone(images * 2.0) + 1.0))))
    return keras.Model(images, layers.Dense(2)(keras.ops.relu(hidden)))


def weights(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_equal(ours, theirs):
    keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)
