"""Samples: batches of inputs, and their labels, of the arrays and datasets that users give."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.data.index import split_index
from modreduce_keras.distillers import checks
from modreduce_keras.export.students import Inputs


def batches(
    argument: str, data: Any, inputs: Inputs, batch_size: int = 256
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
    """Yields inputs by name and labels, or `None`, in batches.

    Args:
        argument: Name of the argument that the data came as.
        data: A dataset (any iterable) of batches, or arrays: `x`, or a tuple `(x, y)`.
        inputs: Of the model.
        batch_size: For arrays: how many samples make a batch.

    Raises:
        TypeError: If the data are neither.
        ValueError: If they have no samples, have no end, or do not fit the inputs.
    """
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"{argument} must end: dataset.take(number of batches). Received a dataset that "
            "does not"
        )
    several = 0
    for batch in _parts(argument, data, inputs, batch_size):
        x, y = _split(batch)
        x = _by_name(argument, split_index(x)[0], inputs)
        several += len(next(iter(x.values())))
        yield x, None if y is None else np.asarray(keras.ops.convert_to_numpy(y))
    if not several:
        raise ValueError(f"{argument} must have samples. Received: none")


def _parts(argument: str, data: Any, inputs: Inputs, batch_size: int) -> Iterable[Any]:
    x, y = _split(data)
    tensors = _arrays(x)
    if tensors is None:
        if isinstance(data, (str, bytes, dict, tuple)) or not isinstance(data, Iterable):
            raise TypeError(
                f"{argument} must be a dataset of batches (x, y) or x, or arrays: x or a tuple "
                f"(x, y). Received: {argument} of type {type(data).__name__}"
            )
        return data
    arrays = [*tensors, *([] if y is None else [y])]
    sizes = sorted({len(array) if getattr(array, "ndim", 1) else 0 for array in arrays})
    if len(sizes) > 1:
        raise ValueError(
            f"{argument} must be arrays of equal numbers of samples. Received: {sizes}"
        )

    def part(start):
        cut = slice(start, start + batch_size)
        some = keras.tree.map_structure(lambda array: array[cut], x)
        return (some,) if y is None else (some, y[cut])

    return (part(start) for start in range(0, sizes[0], batch_size))


def _arrays(x: Any) -> list[Any] | None:
    """Returns the arrays that inputs are, or `None` where they are something else."""
    tensors = keras.tree.flatten(x) if isinstance(x, dict) else x
    # A list of tuples or dicts is one of batches.
    tensors = tensors if isinstance(tensors, list) else [tensors]
    arrays = tensors and all(hasattr(tensor, "__array__") for tensor in tensors)
    return list(tensors) if arrays else None


def _split(batch: Any) -> tuple[Any, Any]:
    """Returns inputs and labels; only a tuple has both, a list or dict is of several inputs."""
    if not isinstance(batch, tuple):
        return batch, None
    if not 1 <= len(batch) <= 3:
        raise ValueError(
            "A tuple of data must be (x,), (x, y) or (x, y, sample_weight); several inputs come "
            f"in a list or a dict. Received: a tuple of {len(batch)}"
        )
    return batch[0], batch[1] if len(batch) > 1 else None


def _by_name(argument: str, x: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """Returns a batch by name, each of the dtype and, but for its number, shape of the input."""
    specs = inputs.by_name
    if isinstance(inputs.structure, dict) != isinstance(x, dict) or (
        isinstance(x, dict) and set(x) != set(inputs.structure)
    ):
        raise _misfit(argument, x, inputs)
    tensors = keras.tree.flatten(x)
    if len(tensors) != len(specs):
        raise _misfit(argument, x, inputs)
    arrays = [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in tensors]
    checks.require_float_inputs(arrays, list(specs.values()))
    for array, spec in zip(arrays, specs.values(), strict=True):
        fits = array.ndim == len(spec.shape) and all(
            size is None or size == own
            for size, own in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise _misfit(argument, x, inputs)
    return {
        name: array.astype(spec.dtype, copy=False)
        for (name, spec), array in zip(specs.items(), arrays, strict=True)
    }


def _misfit(argument: str, x: Any, inputs: Inputs) -> ValueError:
    def shapes(tree):
        return keras.tree.map_structure(lambda one: tuple(getattr(one, "shape", ())), tree)

    return ValueError(
        f"{argument} must have batches of inputs of shape {shapes(inputs.structure)}, as the "
        f"student takes them. Received: {shapes(x)}"
    )
