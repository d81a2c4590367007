"""What the networks are made of: spread of the first weights, the shuffle, the padding."""

import keras
import numpy as np
import pytest

from modreduce_keras.models.blocks import Blocks, relu, shuffle


@pytest.mark.parametrize(
    ("initializer", "convolution", "depthwise"),
    [("he", 2 / (9 * 64), 2 / (9 * 400)), ("uniform", 1 / (3 * 9 * 50), 1 / (3 * 9))],
)
def test_first_weights_have_the_spread_of_the_papers(initializer, convolution, depthwise):
    make, inputs = Blocks(None, initializer), keras.Input((8, 8, 400))
    model = keras.Model(
        inputs,
        [make.convolution(inputs, 64, 3, "plain", groups=8), make.depthwise(inputs, "own", 1)],
    )
    for label, variance in (("plain", convolution), ("own", depthwise)):
        kernel = model.get_layer(f"{label}_conv").get_weights()[0]
        assert np.var(kernel) == pytest.approx(variance, rel=0.08)
        assert np.mean(kernel) == pytest.approx(0.0, abs=0.1 * variance**0.5)
        normal = np.max(np.abs(kernel)) > 2 * variance**0.5
        assert normal == (initializer == "he")


def test_layers_of_one_network_start_different():
    make, inputs = Blocks(None), keras.Input((8, 8, 4))
    model = keras.Model(
        inputs, make.convolution(make.convolution(inputs, 4, 3, "one"), 4, 3, "two")
    )
    one, two = (model.get_layer(f"{label}_conv").get_weights()[0] for label in ("one", "two"))
    assert not np.any(one == two)


def test_shuffle_takes_the_channels_of_the_groups_in_turn(random):
    inputs = keras.Input((2, 3, 6))
    images = random.normal(size=(4, 2, 3, 6)).astype("float32")
    three = keras.Model(inputs, shuffle(inputs, 3, "three"))(images)
    np.testing.assert_array_equal(three, images[..., [0, 2, 4, 1, 3, 5]])
    two = keras.Model(inputs, shuffle(inputs, 2, "two"))(images)
    np.testing.assert_array_equal(two, images[..., [0, 3, 1, 4, 2, 5]])


@pytest.mark.parametrize("size", [7, 8])
def test_strided_layers_take_every_second_pixel_from_the_first(size, random):
    inputs = keras.Input((size, size, 2))
    make = Blocks(None)
    maps = [make.convolution(inputs, 2, 3, "plain", stride=2), make.depthwise(inputs, "own", 2)]
    model = keras.Model(inputs, [*maps, relu(inputs, "active")])
    for layer in model.layers:
        if "conv" in layer.name:
            kernel = np.zeros(layer.kernel.shape)
            kernel[1, 1] = np.eye(2) if layer.name == "plain_conv" else 1.0
            layer.kernel.assign(kernel)
    images = random.normal(size=(1, size, size, 2)).astype("float32")
    plain, own, active = model(images)
    np.testing.assert_allclose(plain, images[:, ::2, ::2], rtol=1e-6)
    np.testing.assert_allclose(own, images[:, ::2, ::2] / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(active, np.maximum(images, 0.0))
