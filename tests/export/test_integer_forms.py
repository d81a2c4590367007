"""Normalizations in integers: what the forms compute, and what int8 files make of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import modreduce_keras as mr
from modreduce_keras.export.integer_forms import integer_forms, least_square, measure
from modreduce_keras.export.interpreter import TFLiteFile


def normalized(x, axes, epsilon, centre=True):
    x = x.astype("float64")
    centred = x - x.mean(axis=axes, keepdims=True) if centre else x
    return centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + epsilon)


def in_groups(x, groups, epsilon):
    parts = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    return normalized(parts, axes, epsilon).reshape(x.shape)


def unit(x, axis):
    return x / np.linalg.norm(x.astype("float64"), axis=axis, keepdims=True)


def scaled_by_deviation(x, epsilon):
    return x / np.sqrt(x.astype("float64").var(axis=-1, keepdims=True) + epsilon)


LAYERS = {
    "layer": (layers.LayerNormalization, {}, lambda x: normalized(x, -1, 1e-3)),
    "without weights": (
        layers.LayerNormalization,
        {"center": False, "scale": False},
        lambda x: normalized(x, -1, 1e-3),
    ),
    "of the first axis": (
        layers.LayerNormalization,
        {"axis": 1, "epsilon": 0.1},
        lambda x: normalized(x, 1, 0.1),
    ),
    "of two axes": (
        layers.LayerNormalization,
        {"axis": [1, 3]},
        lambda x: normalized(x, (1, 3), 1e-3),
    ),
    "of all": (
        layers.LayerNormalization,
        {"axis": [1, 2, 3]},
        lambda x: normalized(x, (1, 2, 3), 1e-3),
    ),
    "rms": (layers.RMSNormalization, {}, lambda x: normalized(x, -1, 1e-6, centre=False)),
    "rms of two axes": (
        layers.RMSNormalization,
        {"axis": [2, 3]},
        lambda x: normalized(x, (2, 3), 1e-6, centre=False),
    ),
    "unit": (layers.UnitNormalization, {}, lambda x: unit(x, -1)),
    "group": (layers.GroupNormalization, {"groups": 2}, lambda x: in_groups(x, 2, 1e-3)),
    "instance": (layers.GroupNormalization, {"groups": -1}, lambda x: in_groups(x, 4, 1e-3)),
    "group without weights": (
        layers.GroupNormalization,
        {"groups": 2, "center": False, "scale": False},
        lambda x: in_groups(x, 2, 1e-3),
    ),
}


def with_weights(layer, x, values, random):
    """Sets weights, and returns them times and plus what a layer without them gives."""
    names = [weight.name for weight in layer.weights]
    given = [random.uniform(0.5, 1.5, weight.shape).astype("float32") for weight in layer.weights]
    layer.set_weights(given)
    axis = getattr(layer, "axis", -1)
    axes = [one % x.ndim for one in (axis if isinstance(axis, list) else [axis])]
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    for name, value in zip(names, given, strict=True):
        value = value.reshape(shape)
        values = values + value if name == "beta" else values * value
    return values


@pytest.mark.parametrize("name", LAYERS)
def test_a_form_computes_what_the_equation_says(name, random):
    kind, arguments, equation = LAYERS[name]
    x = (random.normal(size=(6, 3, 5, 4)) + 0.5).astype("float32")
    model = keras.Sequential([keras.Input(x.shape[1:]), kind(**arguments)])
    expected = with_weights(model.layers[0], x, equation(x), random)
    np.testing.assert_allclose(model(x), expected, rtol=1e-3, atol=1e-4)
    (form,) = integer_forms(model).values()
    np.testing.assert_allclose(form(ops.convert_to_tensor(x)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(None, None, 4), (None, 5, None, 4)])
def test_a_form_takes_sizes_that_are_not_known(shape, random):
    layer = layers.LayerNormalization()
    model = keras.Model(inputs := keras.Input(shape[1:]), layer(inputs))
    x = random.normal(size=[size or 3 for size in shape]).astype("float32")
    (form,) = integer_forms(model).values()
    by_graph = tf.function(form, input_signature=[tf.TensorSpec(shape)])
    np.testing.assert_allclose(by_graph(x), model(x), rtol=1e-3, atol=1e-4)


def test_maps_that_are_too_large_to_sum_are_averaged(random):
    layer = layers.LayerNormalization(axis=[1, 2])
    x = random.normal(size=(2, 300, 200)).astype("float32")
    expected = layer(x)
    model = keras.Model(inputs := keras.Input(x.shape[1:]), layer(inputs))
    (form,) = integer_forms(model).values()
    np.testing.assert_allclose(form(ops.convert_to_tensor(x)), expected, rtol=1e-3, atol=1e-4)


def test_layers_of_one_s_own_are_left_alone():
    class Own(layers.LayerNormalization):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    class Renamed(layers.LayerNormalization):
        """Computes what its base does."""

    model = keras.Sequential([keras.Input((4,)), Own(), Renamed()])
    assert [form.layer for form in integer_forms(model).values()] == [model.layers[1]]


def error_of_root(squares, least):
    """Relative error of 1 / sqrt(s) in 255 steps, root mean square over the samples."""
    step = squares.max() / 255
    roots = [1 / max(round(s / step) * step, least) ** 0.5 for s in squares]
    step = max(roots) / 255
    errors = [
        round(root / step) * step * s**0.5 - 1 for root, s in zip(roots, squares, strict=True)
    ]
    return np.mean(np.square(errors)) ** 0.5


def test_the_range_of_the_root_is_the_best_of_what_there_is(random):
    squares = np.exp(random.normal(size=300) * 1.5)
    least = least_square(squares)
    tried = [squares.max() / 2**power for power in range(20)]
    assert least in tried
    assert error_of_root(squares, least) == min(error_of_root(squares, one) for one in tried)
    # Neither the smallest sum nor a step of the largest.
    assert error_of_root(squares, least) < 0.9 * error_of_root(squares, squares.min())


def test_what_is_nothing_does_not_set_the_range(random):
    squares = random.uniform(1.0, 2.0, 100)
    assert least_square(np.append(squares, [0.0, 1e-9])) == least_square(squares)
    assert least_square(np.zeros(3)) == 0.0


def test_each_call_of_a_layer_has_a_range_of_its_own(random):
    norm = layers.LayerNormalization()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, norm(100.0 * norm(inputs)))
    forms = integer_forms(model)
    (form,) = forms.values()
    vars(norm)["call"] = form
    measure([form], model, [random.normal(size=(30, 4)).astype("float32") for _ in range(2)])
    assert len(form._least) == 2
    assert form._least[1] > 100 * form._least[0]


# Files


def uneven(random, samples=64, places=8, width=32):
    """Returns rows of sizes that differ by a factor of some ten, one channel larger."""
    sizes = np.exp(0.5 * random.normal(size=(samples, places, 1)))
    x = random.normal(size=(samples, places, width)) * sizes
    x[..., 3] *= 4.0
    return (x + 0.5 * random.normal(size=width)).astype("float32")


def relative_error(file, model, x):
    found = TFLiteFile(file, threads=1)
    found.bind({"x": (None, *x.shape[1:])}, {"x": "float32"})
    expected = np.asarray(model(x))
    error = np.square(found.run({"x": x}) - expected).mean(-1)
    return np.sqrt(error / np.square(expected).mean(-1))


def alone(layer, x):
    inputs = keras.Input(x.shape[1:], name="x")
    return keras.Model(inputs, layer(inputs))


OF_ROWS = {
    "layer": lambda: layers.LayerNormalization(epsilon=1e-6, name="norm"),
    "rms": lambda: layers.RMSNormalization(name="norm"),
    "unit": lambda: layers.UnitNormalization(name="norm"),
    "group": lambda: layers.GroupNormalization(4, name="norm"),
}
FIRST = [
    name if name == "layer" else pytest.param(name, marks=pytest.mark.slow) for name in OF_ROWS
]


@pytest.mark.parametrize("name", FIRST)
def test_a_file_normalizes_in_integers(name, random, tmp_path):
    x = uneven(random)
    model = alone(OF_ROWS[name](), x)
    path = mr.export.to_tflite(
        model, tmp_path / "a.tflite", quantization="int8", representative=x, io="int8"
    )
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    assert {np.dtype(one["dtype"]).name for one in interpreter.get_tensor_details()} <= {
        "int8",
        "int32",
    }
    errors = relative_error(path, model, x)
    assert np.median(errors) < 0.08
    assert np.quantile(errors, 0.9) < 0.15


@pytest.mark.slow
def test_integers_hold_more_than_the_converter_s_own_order(random, tmp_path, monkeypatch):
    x = uneven(random)
    model = alone(OF_ROWS["layer"](), x)
    int8 = {"quantization": "int8", "representative": x}
    ours = mr.export.to_tflite(model, tmp_path / "ours.tflite", **int8)
    monkeypatch.setattr("modreduce_keras.export.conversion.integer_forms", lambda _: {})
    its = mr.export.to_tflite(model, tmp_path / "its.tflite", allow_float=["norm"], **int8)
    assert np.median(relative_error(its, model, x)) < np.median(relative_error(ours, model, x))
    monkeypatch.setattr("modreduce_keras.export.conversion._require_integers", lambda *_: None)
    its = mr.export.to_tflite(model, tmp_path / "its.tflite", **int8)
    assert np.median(relative_error(ours, model, x)) < np.median(relative_error(its, model, x))
