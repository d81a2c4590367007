"""Fake quantization: the levels of weights and activations, their gradients, and the ranges."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from modreduce_keras.export.integer_forms import least_square
from modreduce_keras.models.fake_quantization import (
    FakeQuantize,
    LearntFakeQuantize,
    RangeOfRoots,
)
from modreduce_keras.models.fake_quantized_kernel import FakeQuantizedKernel, on_grid
from modreduce_keras.models.kernels import input_axes


def rounded(kernel, bits):
    """Rounds a kernel whose last axis is that of the outputs, one weight at a time."""
    levels = 2 ** (bits - 1) - 1
    result = np.zeros(kernel.shape)
    for place, weight in np.ndenumerate(kernel.astype("float64")):
        largest = np.abs(kernel[..., place[-1]]).max()
        if largest:
            level = round(levels * weight / largest)
            result[place] = round(127 * level / levels) * largest / 127
    return result


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_lie_on_the_levels_of_their_output(bits, random):
    kernel = random.normal(size=(3, 3, 2, 4)).astype("float32")
    kernel[..., 2] = 0.0
    found = np.asarray(on_grid(kernel, bits, (0, 1, 2)))
    np.testing.assert_allclose(found, rounded(kernel, bits), rtol=1e-6, atol=1e-7)
    for output in range(4):
        assert len(np.unique(found[..., output])) <= 2**bits - 1
    assert not found[..., 2].any()


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_int8_holds_every_level(bits):
    weights = np.linspace(-1.0, 1.0, 501, dtype="float32")[:, None]
    cells = np.asarray(on_grid(weights, bits, (0,)), "float64") * 127
    np.testing.assert_allclose(cells, np.round(cells), atol=1e-4)
    assert len(np.unique(np.round(cells))) == 2**bits - 1


LAYERS = {
    "Conv2D": lambda: layers.Conv2D(5, 3),
    "Conv2D in groups": lambda: layers.Conv2D(6, 3, groups=3),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(5, 3, strides=2),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
    "Dense": lambda: layers.Dense(5, activation="relu"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_and_learns_as_with_the_rounded_kernel(name, random):
    """The gradient of the stored kernel is that of the rounded one, put in by hand."""
    inputs = random.normal(size=(4, 8, 8, 3)).astype("float32")
    wrapped = FakeQuantizedKernel(LAYERS[name](), bits=4)
    wrapped.build(inputs.shape)
    plain = LAYERS[name]()
    plain.build(inputs.shape)
    axes = input_axes(plain)
    kernel, bias = wrapped.layer.get_weights()
    plain.set_weights([np.asarray(on_grid(kernel, 4, axes)), bias])

    def loss_and_gradients(layer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(layer(inputs)))
        return [loss, *tape.gradient(loss, [one.value for one in layer.trainable_variables])]

    for own, expected in zip(loss_and_gradients(wrapped), loss_and_gradients(plain), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(wrapped.layer.get_weights()[0], kernel)


def test_each_output_of_a_depthwise_convolution_has_its_own_levels(random):
    wrapped = FakeQuantizedKernel(layers.DepthwiseConv2D(3, depth_multiplier=2), bits=3)
    wrapped.build((None, 8, 8, 4))
    found = np.asarray(wrapped.rounded_kernel())
    kernel = wrapped.layer.get_weights()[0]
    largest = np.abs(kernel).max(axis=(0, 1))
    np.testing.assert_allclose(np.abs(found).max(axis=(0, 1)), largest, rtol=1e-6)


def test_a_regularizer_sees_the_stored_kernel():
    wrapped = FakeQuantizedKernel(layers.Dense(3, kernel_regularizer="l2"), bits=2)
    wrapped.build((None, 4))
    stored = wrapped.layer.get_weights()[0]
    np.testing.assert_allclose(sum(wrapped.losses), 0.01 * np.sum(stored**2), rtol=1e-5)


def test_what_a_layer_adds_to_the_loss_for_its_outputs_stays(random):
    inputs = random.normal(size=(4, 6)).astype("float32")
    wrapped = FakeQuantizedKernel(layers.Dense(3, activity_regularizer="l2"), bits=8)
    outputs = np.asarray(wrapped(inputs))
    np.testing.assert_allclose(sum(wrapped.losses), 0.01 * np.sum(outputs**2) / 4, rtol=1e-5)


def between(values, low, high):
    """Rounds to 256 levels, moved so that 0 is one of them; also whether they were inside."""
    step = (high - low) / 255
    zero = round(-low / step)
    low, high = -zero * step, (255 - zero) * step
    levels = np.floor((np.clip(values, low, high) - low) / step + 0.5)
    return levels * step + low, (values >= low) & (values <= high)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.7), (-1.0, 3.0), (-2.0, 0.0)])
def test_activations_are_rounded_and_cut_off(low, high, random):
    values = random.normal(size=(50, 7)).astype("float32") * 2
    layer = FakeQuantize(minimum=low, maximum=high)
    expected, inside = between(values.astype("float64"), low, high)
    with tf.GradientTape() as tape:
        tensor = tf.constant(values)
        tape.watch(tensor)
        outputs = layer(tensor)
    step = (high - low) / 255
    # Values half way between two levels may go either way in float32.
    differs = np.abs(np.asarray(outputs) - expected) > 1e-5
    assert differs.mean() < 0.01
    assert np.abs(np.asarray(outputs) - expected).max() < 1.01 * step
    np.testing.assert_array_equal(tape.gradient(outputs, tensor), inside.astype("float32"))


def test_the_range_follows_what_is_seen_in_training(random):
    layer = LearntFakeQuantize(momentum=0.75)
    low = high = 0.0
    for place in range(4):
        batch = random.normal(size=(20,)).astype("float32") + place
        outputs = layer(batch, training=True)
        smallest, largest = min(0.0, float(batch.min())), max(0.0, float(batch.max()))
        low = smallest if place == 0 else 0.75 * low + 0.25 * smallest
        high = largest if place == 0 else 0.75 * high + 0.25 * largest
        np.testing.assert_allclose(layer.ends, (low, high), rtol=1e-5)
        np.testing.assert_allclose(outputs, FakeQuantize(minimum=low, maximum=high)(batch), 1e-5)
    layer(batch + 100.0)
    np.testing.assert_allclose(layer.ends, (low, high), rtol=1e-5)


def test_before_anything_is_seen_values_pass(random):
    values = random.normal(size=(5, 3)).astype("float32")
    layer = LearntFakeQuantize()
    np.testing.assert_array_equal(layer(values), values)
    assert not layer.is_set
    layer(np.zeros((5, 3), "float32"), training=True)
    assert not layer.is_set


def test_a_frozen_range_stays(random):
    layer = LearntFakeQuantize()
    layer(random.normal(size=(5, 3)), training=True)
    ends = layer.ends
    layer.trainable = False
    layer(100 * random.normal(size=(5, 3)), training=True)
    assert layer.ends == ends


def test_half_precision_rounds_to_the_levels_of_the_weights_it_computes_with(random):
    inputs = random.normal(size=(4, 6)).astype("float16")
    wrapped = FakeQuantizedKernel(layers.Dense(5, dtype="mixed_float16"), bits=4)
    outputs = wrapped(inputs)
    assert outputs.dtype == "float16"
    kernel = wrapped.layer.get_weights()[0].astype("float16").astype("float32")
    used = np.asarray(on_grid(kernel, 4, (0,)))
    np.testing.assert_allclose(wrapped.rounded_kernel(), used, rtol=1e-6)
    np.testing.assert_allclose(outputs, inputs.astype("float32") @ used, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FakeQuantizedKernel(layers.Dense(2), bits=1), "bits must be .* Received: bits=1"),
        (lambda: FakeQuantizedKernel(layers.Dense(2), bits=9), "from 2 to 8.* Received: bits=9"),
        (lambda: FakeQuantize(minimum=1.0, maximum=2.0), "around 0. Received: minimum=1.0"),
        (lambda: FakeQuantize(minimum=0.0, maximum=0.0), "around 0. Received: minimum=0.0"),
        (lambda: LearntFakeQuantize(momentum=1.0), "momentum must be below 1. Received: .*=1.0"),
        (lambda: LearntFakeQuantize(momentum=-0.1), "momentum must be .* Received: momentum=-0.1"),
    ],
)
def test_mistakes_are_told(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "layer",
    [
        FakeQuantizedKernel(layers.Conv2D(3, 2, name="conv"), bits=4),
        FakeQuantize(minimum=-1.0, maximum=2.0),
        LearntFakeQuantize(momentum=0.5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configs_build_the_same_layer(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert again.get_config() == layer.get_config()
    assert again.name == layer.name


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_the_range_of_roots_ends_where_least_is_lost(spread, random):
    sums = np.exp(random.normal(scale=spread, size=(8, 50))).astype("float32")
    ranged = RangeOfRoots()
    ranged.build(sums.shape)
    ranged((1.0 / np.sqrt(sums)).astype("float32"), training=True)
    step = sums.max() / 255
    smallest = np.maximum(np.round(sums / step) * step, least_square(sums)).min()
    np.testing.assert_allclose(ranged.ends, (0.0, 1.0 / np.sqrt(smallest)), rtol=1e-4)
