"""What callbacks remember outside of the model: their numbers, flags and arrays."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

_KINDS = "fiub"


def require_callbacks(given: Any) -> list[keras.callbacks.Callback]:
    """Returns callbacks as a list.

    Raises:
        ValueError: If something else is among them.
    """
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    wrong = [type(one).__name__ for one in several if not isinstance(one, keras.callbacks.Callback)]
    if wrong:
        raise ValueError(f"callbacks must be a list of Keras callbacks. Received: {wrong}")
    return several


def read(
    callbacks: Sequence[keras.callbacks.Callback],
) -> tuple[list[dict[str, Any]], list[tuple[str, np.ndarray]]]:
    """Returns the numbers, flags and `None`s of each callback by name, and its lists of arrays.

    What its constructor takes is not among them: a restart may come with another patience.
    """
    values, arrays = [], []
    for place, callback in enumerate(callbacks):
        own = {"class": type(callback).__name__, "values": {}, "arrays": {}}
        given = inspect.signature(type(callback).__init__).parameters
        for name, value in vars(callback).items():
            if name in given:
                continue
            if value is None or isinstance(value, (bool, int, float, np.generic)):
                own["values"][name] = value
            elif _is_arrays(value):
                own["arrays"][name] = [[v.dtype.name, list(v.shape)] for v in value]
                arrays += [(f"callback/{place}/{name}/{i}", v) for i, v in enumerate(value)]
        values.append(own)
    return values, arrays


def _is_arrays(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(v, np.ndarray) and v.dtype.kind in _KINDS for v in value)


def assign(
    callbacks: Sequence[keras.callbacks.Callback],
    stored: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, memoryview],
) -> None:
    """Writes what was stored into the callbacks' attributes.

    Raises:
        ValueError: If the callbacks are others.
    """
    classes = [type(callback).__name__ for callback in callbacks]
    if classes != [own["class"] for own in stored]:
        raise ValueError(
            "callbacks of Resume must be those of the checkpoint, "
            f"{[own['class'] for own in stored]}. Received: {classes}"
        )
    for place, (callback, own) in enumerate(zip(callbacks, stored, strict=True)):
        known = vars(callback)
        known.update({name: value for name, value in own["values"].items() if name in known})
        for name, described in own["arrays"].items():
            if name in known:
                known[name] = [
                    _array(arrays[f"callback/{place}/{name}/{i}"], *one)
                    for i, one in enumerate(described)
                ]


def _array(content: memoryview, dtype: str, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)
