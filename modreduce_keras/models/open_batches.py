"""Open batches: what has been traced with batches of one size, for batches of any size.

In a symbolic trace the number of samples is `None`, which a layer cannot compute with:
`ops.reshape(x, (ops.shape(x)[0], -1, 8))`. Traced with a number that no other size is a multiple
of, it can; and where a multiple of it appears, the number of samples is meant.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.keras_internals import calls_of, operation_of
from modreduce_keras.models.held_weights import Repeated

_PRIMES = (61, 67, 71, 73, 79, 83, 89, 97, 101, 103)


def batch_for(shapes: Iterable[Sequence[int | None]], layers: Any) -> int:
    """Returns a number of samples that no size of tensors and weights is a multiple of."""
    weights = [weight.shape for layer in layers for weight in layer.weights]
    sizes = {size for shape in [*(one[1:] for one in shapes), *weights] for size in shape if size}
    for prime in _PRIMES:
        if not any(size % prime == 0 for size in sizes):
            return prime
    raise ValueError(f"The sizes are multiples of all of {_PRIMES}")


def for_any_batch(operation: keras.Operation, batch: int, anchor: Any) -> Callable[..., Any]:
    """Returns what computes an operation of a trace for any number of samples.

    Args:
        operation: A function of `keras.ops`, called once.
        batch: How many samples it has been traced with.
        anchor: A symbolic tensor that has the number of samples as its first size.

    Raises:
        ValueError: If it is not known how the operation depends on that number.
    """
    (call,) = calls_of(operation)
    kind = _kinds().get(type(operation), "")
    result = call.outputs[0].shape
    if kind == "reshape" and batch in _parts(call.inputs[0].shape, result, batch):
        sizes = [-1 if _is_multiple(size, batch) else size for size in result]
        if sizes.count(-1) != 1:
            raise ValueError(f"{operation.name!r} gives several sizes of unknown batches: {result}")
        return lambda x: ops.reshape(x, sizes)
    if kind in ("broadcast_to", "tile") and _is_multiple(result[0], batch):
        given = call.inputs[0].shape
        if result[0] != batch or (len(given) == len(result) and given[0] != 1):
            return _unchanged(operation, kind, given, result)
        repeated = Repeated(result[1:], name=operation.name)
        return lambda x: repeated([x, anchor])
    held = [one for name, one in vars(operation).items() if not name.startswith("_")]
    for one in keras.tree.flatten([held, call.constants]):
        sizes = np.shape(one) if hasattr(one, "shape") else [one]
        if any(isinstance(size, int) and _is_multiple(size, batch) for size in sizes):
            raise ValueError(
                f"{operation.name!r} is given {one!r}, which may be of {batch} samples"
            )
    return operation


def _unchanged(operation: Any, kind: str, given: Any, result: Any) -> Callable[..., Any]:
    """Returns the identity in the place of an operation that repeats nothing."""
    if tuple(given) != tuple(result):
        raise ValueError(f"{operation.name!r} repeats samples: {kind} of {given} gives {result}")
    return lambda x: x


def _parts(given: Any, result: Any, batch: int) -> set[int]:
    return {batch for size in (*given, *result) if _is_multiple(size, batch)}


def _is_multiple(size: Any, batch: int) -> bool:
    return bool(size) and size % batch == 0


@functools.cache
def _kinds() -> dict[type, str]:
    given = keras.KerasTensor((1, 2))
    made = {
        "broadcast_to": ops.broadcast_to(given, (2, 2)),
        "reshape": ops.reshape(given, (2, 1)),
        "tile": ops.tile(given, (2, 1)),
    }
    return {type(operation_of(tensor)): name for name, tensor in made.items()}
