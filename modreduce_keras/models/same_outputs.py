"""Checks on a few inputs that a copy of a model gives the same outputs."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.copying import parts
from modreduce_keras.models.graph import Graph, functional, input_specs

_SAMPLES = 2
_SIZES = (8, 32, 64, 224)
"""What stands for sizes that a model leaves open, in this order, until it runs."""
_LARGEST_INTEGERS = (100, 1)
_LOW = ("float16", "bfloat16")
_ROUNDING = 1e-6


def require_same_outputs(
    original: keras.Model,
    copy: keras.Model,
    *,
    tolerance: float = 1e-4,
    differing: Collection[str] = (),
    after: Callable[[Any], Any] | None = None,
) -> None:
    """Raises if a copy gives other outputs than its original, or none.

    A layer may have state that neither its config nor its weights say. Where the original gives
    nothing that can be compared (it cannot run on made-up inputs, or gives something else each
    time), nothing is known, and nothing raised.

    Args:
        original: A built model.
        copy: A model that is to give the same outputs in inference.
        tolerance: How far an output may be off, as a part of the largest one.
        differing: Names of layers that are known to differ inside.
        after: What the original does to outputs like the copy's, if anything.

    Raises:
        ValueError: If the outputs differ; the message names the first layer whose outputs do.
    """
    inputs, outputs = _first_that_runs(original)
    if inputs is None:
        return
    if _computes_in_half(original) or _computes_in_half(copy):
        tolerance = max(tolerance, 0.1)
    try:
        received = _run(copy, inputs)
        received = received if after is None else [ops.convert_to_numpy(after(received[0]))]
    except Exception as error:
        raise ValueError(f"The copy of {original.name!r} does not run: {error}") from error
    if _same(outputs, received, tolerance) or not _same(outputs, _run(original, inputs), 0.0):
        return
    layer = _first_difference(original, copy, inputs, tolerance, differing)
    raise ValueError(
        f"The copy of {original.name!r} gives other outputs than the model itself"
        + (f", from the layer {layer.name!r} ({type(layer).__name__}) on" if layer else "")
        + ". What a layer needs must be in its get_config(), in variables, in save_assets() and "
        "load_assets(), or be derived in finalize_state()."
    )


def _first_that_runs(model: keras.Model) -> tuple[Any, Any]:
    for inputs in _samples(model):
        try:
            return inputs, _run(model, inputs)
        except Exception:
            continue  # Other inputs may do.
    return None, None


def _run(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Returns a model's outputs; its own variables stay as they are."""
    variables = model.trainable_variables, model.non_trainable_variables
    values = [[ops.convert_to_tensor(variable) for variable in part] for part in variables]
    outputs, _ = model.stateless_call(*values, inputs, training=False)
    return [ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def _same(expected: list[np.ndarray], received: list[np.ndarray], tolerance: float) -> bool:
    return len(expected) == len(received) and all(
        _close(one, other, tolerance) for one, other in zip(expected, received, strict=True)
    )


def _close(expected: np.ndarray, received: np.ndarray, tolerance: float) -> bool:
    if expected.shape != received.shape:
        return False
    if expected.dtype.kind not in "fiubV":
        return np.array_equal(expected, received)
    one, other = (np.asarray(array, "float64") for array in (expected, received))
    finite = np.isfinite(one)
    if not np.isfinite(other[finite]).all():
        return False
    largest = np.max(np.abs(one[finite]), initial=0.0)
    return bool(
        np.max(np.abs(one[finite] - other[finite]), initial=0.0) <= tolerance * largest + _ROUNDING
    )


def _samples(model: keras.Model) -> Iterator[Any]:
    """Returns inputs that a model may take: random ones, with tokens that its layers know."""
    specs = input_specs(model)
    if specs is None:
        return
    tokens = [token for layer in parts(model) for token in _tokens(layer)]
    open_sizes = any(None in spec.shape[1:] for spec in keras.tree.flatten(specs))
    for size in _SIZES if open_sizes else _SIZES[:1]:
        for largest in _LARGEST_INTEGERS:
            random = np.random.default_rng(0)
            yield keras.tree.map_structure(
                lambda spec, size=size, largest=largest, random=random: _sample(
                    spec, size, largest, tokens, random
                ),
                specs,
            )


def _tokens(layer: keras.layers.Layer) -> list[Any]:
    return list(layer.get_vocabulary())[:8] if hasattr(layer, "get_vocabulary") else []


def _sample(spec: Any, size: int, largest: int, tokens: list, random: np.random.Generator) -> Any:
    shape = [_SAMPLES, *(size if length is None else length for length in spec.shape[1:])]
    shape[0] = spec.shape[0] or _SAMPLES
    dtype = keras.backend.standardize_dtype(spec.dtype)
    if dtype == "string":
        words = [token for token in tokens if isinstance(token, str)]
        return ops.convert_to_tensor(random.choice([*words, "word"], shape).tolist(), "string")
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        known = [int(token) for token in tokens if isinstance(token, (int, np.integer))]
        values = random.choice(known, shape) if known else random.integers(0, largest + 1, shape)
        return values.astype(dtype)
    return ops.convert_to_tensor(random.normal(size=shape), dtype)


def _computes_in_half(model: keras.Model) -> bool:
    return any(layer.compute_dtype in _LOW for layer in parts(model))


def _first_difference(
    original: keras.Model,
    copy: keras.Model,
    inputs: Any,
    tolerance: float,
    differing: Collection[str],
) -> keras.layers.Layer | None:
    """Returns the first layer whose outputs differ, or `None` where that cannot be seen."""
    if not (getattr(original, "inputs", None) and getattr(copy, "inputs", None)):
        return None
    models = functional(original), functional(copy)
    graphs = [Graph(model) for model in models]
    names = {layer.name for layer in models[1].layers} - set(differing)
    for layer in models[0].layers:
        if layer.name not in names or isinstance(layer, keras.layers.InputLayer):
            continue
        pair = layer, models[1].get_layer(layer.name)
        ends = [graph.output_of(one) for graph, one in zip(graphs, pair, strict=True)]
        if None in ends:
            continue  # It runs more than once.
        try:
            expected, received = [
                _run(keras.Model(model.input, end), inputs)
                for model, end in zip(models, ends, strict=True)
            ]
        except Exception:
            continue  # Its output is none that can be compared.
        if not _same(expected, received, tolerance):
            return layer
    return None
