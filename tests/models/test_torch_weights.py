"""Weights from PyTorch: each kind of layer by hand, what does not fit, and nothing half done."""

import keras
import numpy as np
import pytest
from keras import layers

import modreduce_keras as mr

SIZE = (4, 4, 6)


def by_position(outputs, inputs, height, width):
    """Returns a kernel of PyTorch whose values say where they stand."""
    place = np.indices((outputs, inputs, height, width))
    return np.tensordot([1000.0, 100.0, 10.0, 1.0], place, axes=1)


def model_of(*given, shape=SIZE):
    return keras.Sequential([keras.Input(shape), *given])


def convolved(images, kernel, groups):
    """Returns a convolution without padding from its definition, in PyTorch's terms."""
    outputs, inputs, height, width = kernel.shape
    rows, columns = images.shape[1] - height + 1, images.shape[2] - width + 1
    result = np.zeros((len(images), rows, columns, outputs))
    for output in range(outputs):
        first = output // (outputs // groups) * inputs
        for row in range(rows):
            for column in range(columns):
                window = images[:, row : row + height, column : column + width]
                window = window[..., first : first + inputs].transpose(0, 3, 1, 2)
                result[:, row, column, output] = np.sum(window * kernel[output], axis=(1, 2, 3))
    return result


@pytest.mark.parametrize(
    ("layer", "shape", "groups"),
    [
        (layers.Conv2D(8, (3, 2), use_bias=False), (8, 6, 3, 2), 1),
        (layers.Conv2D(8, 3, groups=2, use_bias=False), (8, 3, 3, 3), 2),
        (layers.DepthwiseConv2D(3, use_bias=False), (6, 1, 3, 3), 6),
        (layers.DepthwiseConv2D((2, 3), depth_multiplier=2, use_bias=False), (12, 1, 2, 3), 6),
    ],
    ids=["plain", "in groups", "depthwise", "depthwise with a multiplier"],
)
def test_convolution_is_that_of_pytorch(layer, shape, groups, random):
    model, kernel = model_of(layer), random.normal(size=shape)
    mr.models.import_torch_weights(model, {"conv.weight": kernel})
    images = random.normal(size=(2, *SIZE)).astype("float32")
    expected = convolved(images.astype("float64"), kernel, groups)
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-5)


def test_every_value_goes_to_its_place():
    convolution, linear = layers.Conv2D(3, (2, 1), name="conv"), layers.Dense(2, name="logits")
    model = model_of(convolution, layers.GlobalAveragePooling2D(), linear)
    state_dict = {
        "body.0.bias": np.array([1.0, 2.0, 3.0]),
        "body.0.weight": by_position(3, 6, 2, 1),
        "body.0.num_batches_tracked": np.array(7),
        "weight": np.arange(6.0).reshape(2, 3),
        "bias": np.array([8.0, 9.0]),
    }
    assert mr.models.import_torch_weights(model, state_dict) is model
    kernel, bias = convolution.get_weights()
    assert kernel[1, 0, 5, 2] == 2510.0
    np.testing.assert_array_equal(bias, [1, 2, 3])
    np.testing.assert_array_equal(linear.get_weights()[0], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(linear.get_weights()[1], [8, 9])


@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False)])
def test_normalization_gets_all_four(scale, center, random):
    layer = layers.BatchNormalization(scale=scale, center=center, epsilon=1e-5)
    state_dict = {
        **({"bn.weight": np.full(6, 3.0)} if scale else {}),
        **({"bn.bias": np.arange(6.0)} if center else {}),
        "bn.running_mean": np.arange(6.0) / 2,
        "bn.running_var": np.arange(6.0) + 1,
        "bn.num_batches_tracked": np.array(10),
    }
    model = mr.models.import_torch_weights(model_of(layer), state_dict)
    images = random.normal(size=(2, *SIZE)).astype("float32")
    expected = (images - np.arange(6) / 2) / np.sqrt(np.arange(6) + 1 + 1e-5)
    expected = expected * (3.0 if scale else 1.0) + (np.arange(6) if center else 0.0)
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-5)


def test_an_archive_of_arrays_is_taken(tmp_path):
    model = model_of(layers.Dense(2), shape=(3,))
    np.savez(tmp_path / "weights.npz", **{"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)})
    with np.load(tmp_path / "weights.npz") as archive:
        mr.models.import_torch_weights(model, archive)
    np.testing.assert_array_equal(model(np.ones((1, 3))), [[4, 4]])


def block():
    """Returns a network with a shortcut, and a state dict of its layout."""
    inputs = keras.Input(SIZE)
    maps = layers.Conv2D(6, 3, padding="same", use_bias=False, name="first")(inputs)
    maps = layers.BatchNormalization(name="norm")(maps)
    shortcut = layers.Conv2D(6, 1, name="shortcut")(inputs)
    maps = layers.GlobalAveragePooling2D()(layers.Add()([maps, shortcut]))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(maps), name="block")
    state_dict = {
        "conv1.weight": np.ones((6, 6, 3, 3)),
        **{f"bn1.{leaf}": np.ones(6) for leaf in ("weight", "bias", "running_mean")},
        "bn1.running_var": np.ones(6),
        "short.weight": np.ones((6, 6, 1, 1)),
        "short.bias": np.ones(6),
        "fc.weight": np.ones((2, 6)),
        "fc.bias": np.ones(2),
    }
    return model, state_dict


def moved(state_dict, prefix):
    """Returns a state dict with a module at its end."""
    own = {name: value for name, value in state_dict.items() if name.startswith(prefix)}
    return {**{name: v for name, v in state_dict.items() if name not in own}, **own}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: moved(d, "short"),
            r"'shortcut' \(Conv2D\) needs weight \(6, 6, 1, 1\), bias \(6,\). Received in its "
            r"place: 'fc' with weight \(2, 6\), bias \(2,\)",
        ),
        (
            lambda d: {**d, "conv1.weight": np.ones((6, 6, 1, 3))},
            r"'first' \(Conv2D\) needs weight \(6, 6, 3, 3\). .* 'conv1' with weight \(6, 6, 1,",
        ),
        (
            lambda d: {**d, "conv1.bias": np.ones(6)},
            r"'first' .* needs weight \(6, 6, 3, 3\)\. .* weight \(6, 6, 3, 3\), bias \(6,\)",
        ),
        (
            lambda d: {name: value for name, value in d.items() if name != "fc.bias"},
            r"'logits' \(Dense\) needs .*, bias \(2,\). .* 'fc' with weight \(2, 6\)$",
        ),
        (
            lambda d: {name: value for name, value in d.items() if not name.startswith("fc")},
            r"'block' has layers with weights, 4. Received: 3; without entries: \['logits'\]",
        ),
        (
            lambda d: {**d, "more.weight": np.ones((2, 2)), "again.weight": np.ones((2, 2))},
            r"Received: 6; without a layer: \['more', 'again'\]",
        ),
        (
            lambda d: {**d, "fc.weight_g": np.ones((2, 6))},
            r"must hold floats of .* Received: 'fc.weight_g' of shape \(2, 6\) and dtype float64",
        ),
        (
            lambda d: {**d, "fc.weight": np.ones((2, 6), "int8")},
            r"must hold floats .* Received: 'fc.weight' of shape \(2, 6\) and dtype int8",
        ),
        (
            lambda d: {**d, "conv1.weight": np.ones((6, 6, 3))},
            r"must hold floats .* Received: 'conv1.weight' of shape \(6, 6, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(change, message):
    model, state_dict = block()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        mr.models.import_torch_weights(model, change(state_dict))
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    mr.models.import_torch_weights(model, state_dict)
    assert all(np.all(weights == 1) for weights in model.get_weights())


def test_other_layers_are_refused():
    model = model_of(layers.Conv2DTranspose(2, 3, name="up"))
    with pytest.raises(ValueError, match=r"must be Conv2D, .*: 'up', a Conv2DTranspose with"):
        mr.models.import_torch_weights(model, {})
    flat = model_of(layers.Flatten(name="flat"), layers.Dense(2))
    with pytest.raises(ValueError, match="'flat', which flattens maps of shape"):
        mr.models.import_torch_weights(flat, {"weight": np.ones((2, 96)), "bias": np.ones(2)})
    pooled = model_of(layers.AveragePooling2D(4), layers.Flatten(), layers.Dense(2))
    state_dict = {"weight": np.ones((2, 6)), "bias": np.ones(2)}
    assert mr.models.import_torch_weights(pooled, state_dict) is pooled


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resnet20", {}), TypeError, "model must be a keras.Model. Received: 'resnet20'"),
        ((keras.Sequential(), {}), ValueError, "must be a functional or a built Sequential model"),
        ((block()[0], [1.0]), TypeError, r"must map names to arrays. Received: <class 'list'>"),
        (
            (block()[0], {"state_dict": {"fc.weight": 1}}),
            TypeError,
            "must hold NumPy arrays. Received: 'state_dict': <class 'dict'>",
        ),
    ],
)
def test_a_model_and_arrays_are_needed(arguments, error, message):
    with pytest.raises(error, match=message):
        mr.models.import_torch_weights(*arguments)
