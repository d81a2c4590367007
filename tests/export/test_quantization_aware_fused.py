"""Quantization-aware students round once what their files run as one operation."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr
from tests.export.test_quantization_aware_phones import SHAPE, levels


def conv(channels=3, size=3):
    return layers.Conv2D(channels, size)


def nested(maps, *several):
    inputs = keras.Input(maps.shape[1:])
    inner = inputs
    for layer in several:
        inner = layer(inner)
    return keras.Model(inputs, inner)(maps)


def rectified_twice(maps):
    """As in NASNet: a converter computes both ReLUs at once, as a part of what they read."""
    maps = conv(6, 1)(maps)
    return layers.Concatenate()([conv()(layers.ReLU()(maps)) for _ in range(2)])


def sum_rectified_twice(maps):
    maps = layers.Add()([conv(6, 1)(maps), conv(6, 1)(maps)])
    branches = layers.Activation("relu")(maps), layers.ReLU()(maps)
    return layers.Concatenate()([conv()(one) for one in branches])


def pool_rectified_twice(maps):
    maps = layers.AveragePooling2D(2)(conv(6, 1)(maps))
    return layers.Concatenate()([conv()(layers.ReLU()(maps)) for _ in range(2)])


def rectified_in_two_ways(maps):
    maps = conv(6, 1)(maps)
    branches = layers.ReLU()(maps), layers.ReLU(6.0)(layers.Dropout(0.1)(maps)), maps
    return layers.Concatenate()([conv()(one) for one in branches])


def nested_in_nested(maps):
    inputs = keras.Input(maps.shape[1:])
    inner = keras.Model(inputs, nested(inputs, conv(6, 1)))
    return conv()(layers.ReLU()(inner(maps)))


CASES = {
    "rectified twice": rectified_twice,
    "sum rectified twice": sum_rectified_twice,
    "pool rectified twice": pool_rectified_twice,
    "rectified in two ways": rectified_in_two_ways,
    "a ReLU begins a nested model": lambda maps: nested(conv(6, 1)(maps), layers.ReLU(), conv()),
    "a ReLU after a nested model": lambda maps: conv()(layers.ReLU()(nested(maps, conv(6, 1)))),
    "nested in nested": nested_in_nested,
    "a normalization begins a nested model": lambda maps: nested(
        conv(6, 1)(maps), layers.BatchNormalization(), layers.ReLU(), conv()
    ),
    "joined outside": lambda maps: layers.Concatenate()([nested(maps, conv(6, 1)), maps]),
    "dropout between": lambda maps: conv()(layers.ReLU()(layers.Dropout(0.1)(conv(6, 1)(maps)))),
    "a linear activation between": lambda maps: conv()(
        layers.ReLU()(layers.Activation("linear")(conv(6, 1)(maps)))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_computes_what_its_student_computes(name, random, settled, tmp_path):
    keras.utils.set_random_seed(7)
    inputs = keras.Input(SHAPE, name="image")
    student = settled(keras.Model(inputs, CASES[name](inputs)))
    images = random.normal(size=(64, *SHAPE)).astype("float32")
    quantized = mr.quantize_aware(student, representative=images)
    path = mr.export.to_tflite(quantized, tmp_path / "a.tflite", quantization="int8", io="int8")
    off = levels(quantized, path, images)
    assert (off < 0.1).mean() > 0.97
    assert off.max() < 1.05


def test_what_is_read_by_two_equal_relus_has_no_range_of_its_own(random):
    inputs = keras.Input(SHAPE, name="image")
    maps = conv(6, 1)(inputs)
    both = [layers.ReLU(name=name)(maps) for name in ("one", "other")]
    student = keras.Model(inputs, layers.Add(name="add")(both))
    quantized = mr.quantize_aware(student)
    quantized.compile("sgd", "mse")
    quantized.fit(random.normal(size=(8, *SHAPE)), np.zeros((8, *SHAPE[:2], 6)), verbose=0)
    names = [layer.name for layer in quantized.layers if layer.name.endswith("_range")]
    assert sorted(names) == ["add_range", "image_range", "one_range", "other_range"]
    # They see the same, so that they stay the range that a file has.
    assert quantized.get_layer("one_range").ends == quantized.get_layer("other_range").ends
