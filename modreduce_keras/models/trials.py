"""Trials: a model run on made-up inputs, to see what its outputs are."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.keras_internals import flatten_layers

Run = Callable[[Any], Any]

_FREE_SIZES = (16, 64, 224)
"""Tried one after the other for axes of no fixed size: images want more than sequences."""
_DRAWS = (
    lambda random, shape: random.normal(size=shape),
    lambda random, shape: random.uniform(0.0, 255.0, shape),
    lambda random, shape: random.normal(scale=100.0, size=shape),
    lambda random, shape: random.uniform(size=shape),
    lambda random, shape: random.normal(scale=1e4, size=shape),
    lambda random, shape: random.uniform(-1.0, 1.0, shape),
)
_MOST_SAMPLES, _MOST_NUMBERS = 8, 2**19


def first_outputs(
    run: Run,
    model: keras.Model,
    specs: Any,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Any, Any] | None:
    """Runs a model on the first made-up inputs that it takes; its state stays as it is.

    Args:
        run: Runs the model in inference.
        model: The model.
        specs: The model's symbolic inputs, or `None` where they are not known.
        around: Returns a context to run it in.

    Returns:
        The inputs and the outputs; `None` where the model takes no made-up inputs.
    """
    for inputs in _made_up(model, specs):
        outputs = outputs_for(run, inputs, around=around)
        if outputs is not None:
            return inputs, outputs
    return None


def outputs_for(
    run: Run,
    inputs: Any,
    weights: Sequence[tuple[keras.Variable, Any]] = (),
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Any:
    """Runs a model, with other weights where some are given.

    Returns:
        Its outputs; `None` where it does not run.
    """
    try:
        # No random state moves, nothing is counted, and no loss is noted.
        with around(), warnings.catch_warnings(), keras.StatelessScope(list(weights)):
            warnings.simplefilter("ignore")
            return run(inputs)
    except Exception:  # a user's model may raise anything for made-up inputs
        return None


def other_weights(model: keras.Model) -> Iterator[list[tuple[keras.Variable, np.ndarray]]]:
    """Yields sets of far larger weights, with which an unbounded output leaves any interval."""
    positive = {
        id(layer.moving_variance)
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built
    }
    weights = [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]
    last = [v for v in weights if id(v) not in positive][-4:]
    random = np.random.default_rng(1)

    def noise(variable: Any) -> Any:
        return random.normal(size=tuple(variable.shape))

    yield [(v, 8.0 * ops.convert_to_numpy(v) + np.abs(noise(v))) for v in weights]
    for scale in (30.0, -30.0):  # the last layers alone, as a deep model may overflow
        yield [(v, scale * (ops.convert_to_numpy(v) + noise(v))) for v in last]


def _made_up(model: keras.Model, specs: Any) -> Iterator[Any]:
    leaves = [] if specs is None else keras.tree.flatten(specs)
    if not leaves:
        return
    declared = bool(getattr(model, "inputs", None))
    is_free = any(size is None for spec in leaves for size in spec.shape[1:])
    words = _vocabulary(model)
    for size in _FREE_SIZES if is_free else _FREE_SIZES[:1]:
        shapes = [tuple(axis or size for axis in spec.shape[1:]) for spec in leaves]
        numbers = max(int(np.prod(shape)) for shape in shapes)
        samples = min(max(_MOST_NUMBERS // numbers, 1), _MOST_SAMPLES)
        samples = next((spec.shape[0] for spec in leaves if spec.shape[0]), samples)
        for drawn in _dtypes([spec.dtype for spec in leaves], declared):
            random = np.random.default_rng(0)
            arrays = [
                _array(random, (samples, *shape), dtype, words)
                for dtype, shape in zip(drawn, shapes, strict=True)
            ]
            if declared:
                arrays = [
                    array if array.dtype == spec.dtype else ops.cast(array, spec.dtype)
                    for array, spec in zip(arrays, leaves, strict=True)
                ]
            yield keras.tree.pack_sequence_as(specs, arrays)


def _dtypes(given: list[str], declared: bool) -> Iterator[list[str]]:
    """Yields what to draw for inputs of some dtypes: at first those themselves."""
    yield given
    if not declared:  # neither functional nor Sequential: they do not say what they take
        yield ["int32"] * len(given)
        yield ["string"] * len(given)
    elif any(map(keras.backend.is_float_dtype, given)):
        # Inputs are float32 by default, those of token ids as well.
        yield ["int32" if keras.backend.is_float_dtype(dtype) else dtype for dtype in given]


def _vocabulary(model: keras.Model) -> int:
    """Returns how many indices every layer of a model that takes some knows."""
    layers = flatten_layers(model)
    sizes = [one.input_dim for one in layers if isinstance(one, keras.layers.Embedding)]
    layers = flatten_layers(model)
    encodings = [one for one in layers if isinstance(one, keras.layers.CategoryEncoding)]
    return min([*sizes, *(one.num_tokens or 2 for one in encodings)], default=2)


def _array(random: np.random.Generator, shape: tuple[int, ...], dtype: str, words: int) -> Any:
    if dtype == "string":
        return ops.convert_to_tensor(random.choice(["a", "b c", "1"], shape).tolist(), dtype)
    if dtype == "uint8":
        return ops.convert_to_tensor(random.integers(0, 256, shape), dtype)
    if not keras.backend.is_float_dtype(dtype):  # all ones in the first sample: masks keep all
        values = random.integers(0, max(words, 2), shape)
        values[0] = min(words - 1, 1)
        return ops.cast(values, dtype)
    draws = [_DRAWS[index % len(_DRAWS)](random, shape[1:]) for index in range(shape[0])]
    return ops.cast(np.stack(draws), dtype)
