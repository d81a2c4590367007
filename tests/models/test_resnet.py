"""Tests of the residual networks: taps, padding, regularization, errors."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.mark.parametrize(
    ("identifier", "input_shape", "shapes"),
    [
        ("resnet8", (32, 32, 3), [(32, 32, 16), (16, 16, 32), (8, 8, 64), (64,)]),
        ("resnet14", (9, 6, 1), [(9, 6, 16), (5, 3, 32), (3, 2, 64), (64,)]),
        ("resnet8x4", (8, 8, 3), [(8, 8, 64), (4, 4, 128), (2, 2, 256), (256,)]),
    ],
)
def test_taps_have_their_shapes(identifier, input_shape, shapes, random):
    model = mr.models.get(identifier, num_classes=7, input_shape=input_shape)
    taps = ["stage1", "stage2", "stage3", "embedding"]
    output = mr.TapReader(model, taps)(random.normal(size=(2, *input_shape)).astype("float32"))
    assert [output.features[tap].shape for tap in taps] == [(2, *shape) for shape in shapes]
    assert output.logits.shape == (2, 7)
    np.testing.assert_allclose(
        output.features["embedding"],
        np.mean(output.features["stage3"], axis=(1, 2)),
        rtol=1e-4,
        atol=1e-6,
    )
    assert all(np.min(output.features[tap]) >= 0 for tap in taps)


def test_strided_convolutions_pad_one_pixel_on_each_side(random):
    model = mr.models.get("resnet8", num_classes=2, input_shape=(8, 8, 3))
    convolution = model.get_layer("stage2_1_conv")
    inner = keras.Model(model.input, [model.get_layer("stage1").output, convolution.output])
    before, after = inner(random.normal(size=(1, 8, 8, 3)).astype("float32"))
    kernel = convolution.get_weights()[0]
    padded = np.pad(np.array(before), [(0, 0), (1, 1), (1, 1), (0, 0)])
    expected = np.zeros((1, 4, 4, 32))
    for row in range(4):
        for column in range(4):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected[:, row, column] = np.tensordot(window, kernel, axes=3)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)


def test_a_strided_block_adds_the_projection_of_every_second_pixel(random):
    model = mr.models.get("resnet8", num_classes=2, input_shape=(8, 8, 3))
    names = ["stage1", "stage2_2_norm", "stage2"]
    inner = keras.Model(model.input, [model.get_layer(name).output for name in names])
    images = random.normal(size=(2, 8, 8, 3)).astype("float32")
    before, residual, after = (np.array(maps) for maps in inner(images))
    kernel = model.get_layer("stage2_shortcut_conv").get_weights()[0][0, 0]
    shortcut = before[:, ::2, ::2] @ kernel / np.sqrt(1.0 + 1e-5)
    np.testing.assert_allclose(after, np.maximum(residual + shortcut, 0.0), rtol=1e-4, atol=1e-5)


def test_name_is_the_depth_unless_given():
    assert mr.models.resnet(8, num_classes=3).name == "resnet8"
    assert mr.models.resnet(8, num_classes=3, name="pupil").name == "pupil"


def test_regularizer_covers_every_kernel_and_nothing_else():
    model = mr.models.get(
        "resnet8", num_classes=3, input_shape=(8, 8, 1), kernel_regularizer=keras.regularizers.L2(1)
    )
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    expected = sum(np.sum(np.square(keras.ops.convert_to_numpy(kernel))) for kernel in kernels)
    assert len(model.losses) == len(kernels) == 10
    np.testing.assert_allclose(sum(model.losses), expected, rtol=1e-5)
    assert mr.models.get("resnet8", num_classes=3, input_shape=(8, 8, 1)).losses == []


@pytest.mark.parametrize("depth", [2, 0, -4, 18, 21])
def test_depths_that_are_not_6n_plus_2_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6n \+ 2 .* Received: depth={depth}"):
        mr.models.resnet(depth, num_classes=3)


@pytest.mark.parametrize("widths", [(16,), (16, 16, 32), (16, 16, 32, 64, 128)])
def test_four_widths_are_needed(widths):
    with pytest.raises(ValueError, match="widths must give the channels of the first convolution"):
        mr.models.resnet(8, num_classes=3, widths=widths)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match=r"of at least 4 by 4.* Received: input_shape=\(3, 4, 1\)"):
        mr.models.resnet(8, num_classes=3, input_shape=(3, 4, 1))
