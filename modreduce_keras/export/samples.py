"""Samples: batches of inputs, and their labels, of the arrays and datasets that users give."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from modreduce_keras.batches import Batches, split_index, unpack
from modreduce_keras.distillers import checks
from modreduce_keras.export.runnable import dtype_of
from modreduce_keras.export.students import Inputs


def batches(
    argument: str, data: Any, inputs: Inputs, batch_size: int = 256
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
    """Yields inputs by name and labels, or `None`, in batches.

    Args:
        argument: Name of the argument that the data came as.
        data: A dataset of batches, or arrays: `x`, or a tuple `(x, y)`; see `Batches`.
        inputs: Of the model.
        batch_size: For arrays: how many samples make a batch.

    Raises:
        TypeError: If the data are neither.
        ValueError: If they have no samples, have no end, or do not fit the inputs.
    """
    several = 0
    for batch in Batches(argument, data, batch_size, inputs=len(inputs.by_name)):
        x, y, _ = unpack(batch)
        x = _by_name(argument, split_index(x)[0], inputs)
        several += len(next(iter(x.values())))
        yield x, None if y is None else np.asarray(keras.ops.convert_to_numpy(y))
    if not several:
        raise ValueError(f"{argument} must have samples. Received: none")


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
    pairs = list(zip(arrays, specs.values(), strict=True))
    for array, spec in pairs:
        if (array.dtype.kind in "OSU") != (spec.dtype == "string"):
            raise ValueError(
                f"{argument} must have inputs of dtype {spec.dtype}, as the student takes them. "
                f"Received: an array of dtype {array.dtype}"
            )
    numbers = [(array, spec) for array, spec in pairs if spec.dtype != "string"]
    given, declared = [a for a, _ in numbers], [spec for _, spec in numbers]
    checks.require_float_inputs(given, declared, [inputs.student])
    for array, spec in zip(arrays, specs.values(), strict=True):
        fits = array.ndim == len(spec.shape) and all(
            size is None or size == own
            for size, own in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            raise _misfit(argument, x, inputs)
        _require_integers(argument, array, spec)
    return {
        name: array.astype(dtype_of(spec.dtype), copy=False)
        for (name, spec), array in zip(specs.items(), arrays, strict=True)
    }


def _require_integers(argument: str, array: np.ndarray, spec: keras.KerasTensor) -> None:
    """Raises if numbers are no values of an input that takes integers."""
    dtype = dtype_of(spec.dtype)
    if not np.issubdtype(dtype, np.integer) or not np.issubdtype(array.dtype, np.number):
        return
    ends = np.iinfo(dtype)
    if not ((array == np.rint(array)) & (array >= ends.min) & (array <= ends.max)).all():
        raise ValueError(
            f"{argument} must have the values that the student takes, {dtype} from {ends.min} to "
            f"{ends.max}: give images as they are, x.astype({str(dtype)!r}), not rescaled. "
            f"Received: {array.dtype} from {array.min():g} to {array.max():g}"
        )


def _misfit(argument: str, x: Any, inputs: Inputs) -> ValueError:
    def shapes(tree: Any) -> Any:
        return keras.tree.map_structure(lambda one: tuple(getattr(one, "shape", ())), tree)

    return ValueError(
        f"{argument} must have batches of inputs of shape {shapes(inputs.structure)}, as the "
        f"student takes them. Received: {shapes(x)}"
    )
