"""Tests of the small plain network: sizes, taps, regularization, errors."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr


@pytest.mark.parametrize(
    ("widths", "shapes"),
    [
        ((4,), [(14, 14, 4)]),
        ((4, 8), [(14, 14, 4), (7, 7, 8)]),
        ((4, 8, 6, 2), [(14, 14, 4), (7, 7, 8), (4, 4, 6), (2, 2, 2)]),
    ],
)
def test_there_are_as_many_stages_as_widths(widths, shapes, random):
    model = mr.models.convnet(num_classes=5, widths=widths)
    stages = [f"stage{i}" for i in range(1, len(widths) + 1)]
    images = random.normal(size=(2, 28, 28, 1)).astype("float32")
    output = mr.TapReader(model, [*stages, "embedding", "logits"])(images)
    assert [output.features[stage].shape for stage in stages] == [(2, *s) for s in shapes]
    assert output.features["embedding"].shape == (2, widths[-1])
    np.testing.assert_allclose(
        output.features["embedding"], np.mean(output.features[stages[-1]], axis=(1, 2)), rtol=1e-5
    )
    np.testing.assert_array_equal(output.features["logits"], output.logits)
    kernel, bias = model.get_layer("logits").get_weights()
    expected = output.features["embedding"].numpy() @ kernel + bias
    np.testing.assert_allclose(output.logits, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("strides", "sizes"), [(2, (14, 7, 4)), (1, (28, 28, 28)), ((1, 2, 3), (28, 14, 5))]
)
def test_strides_are_one_for_all_or_one_for_each_stage(strides, sizes):
    model = mr.models.convnet(num_classes=3, widths=(2, 3, 4), strides=strides)
    shapes = [model.get_layer(f"stage{i}").output.shape for i in (1, 2, 3)]
    assert shapes == [(None, size, size, i) for i, size in enumerate(sizes, start=2)]


@pytest.mark.parametrize("strides", [0, (2, 2), (2, 2, 0), "222", 1.5])
def test_wrong_strides_say_how_many_are_right(strides):
    with pytest.raises(
        ValueError, match=r"strides must be a stride for all or for each of 3 stages.*Received: str"
    ):
        mr.models.convnet(num_classes=3, widths=(2, 3, 4), strides=strides)


def test_parameters_are_those_of_the_layers_it_names():
    model = mr.models.convnet(num_classes=10, widths=(4, 8), input_shape=(16, 16, 3))
    convolutions, norms, head = 9 * (3 * 4 + 4 * 8), 4 * (4 + 8), 8 * 10 + 10
    assert model.count_params() == convolutions + norms + head


def test_regularizer_covers_every_kernel_and_nothing_else():
    model = mr.models.convnet(num_classes=3, widths=(4, 8), kernel_regularizer="l2")
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    expected = 0.01 * sum(np.sum(np.square(keras.ops.convert_to_numpy(k))) for k in kernels)
    assert len(model.losses) == len(kernels) == 3
    np.testing.assert_allclose(sum(model.losses), expected, rtol=1e-5)
    assert mr.models.convnet(num_classes=3).losses == []


def test_name_is_convnet_unless_given():
    assert mr.models.convnet(num_classes=3).name == "convnet"
    assert mr.models.get("convnet", num_classes=3, name="pupil").name == "pupil"


@pytest.mark.parametrize("widths", [(), (0,), (4, 2.5), 8, "ab"])
def test_at_least_one_width_is_needed(widths):
    with pytest.raises(
        ValueError, match=r"widths must name at least one stage .*Received: widths="
    ):
        mr.models.convnet(num_classes=3, widths=widths)


@pytest.mark.parametrize("shape", [28, (28, 28), (1, 28, 28, 1), (0, 28, 1), (28, 28, None)])
def test_the_shape_of_an_image_is_needed(shape):
    with pytest.raises(ValueError, match=r"input_shape must be \(height, width, channels\)"):
        mr.models.convnet(num_classes=3, input_shape=shape)


def test_images_of_an_open_size_are_welcome():
    model = mr.models.convnet(num_classes=3, input_shape=(None, None, 1))
    assert model.input_shape == (None, None, None, 1)
