"""Values in a checkpoint: converts them to JSON and bytes, and back.

JSON's own kinds stand for themselves; everything else is `{"kind": ..., ...}`. Nothing that is read
is executed or imported: an object that holds a state (a metric, a random generator) is not made but
given back its state, where the restarted program has made it anew.
"""

import collections
import datetime
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from modreduce_keras.callbacks import stateful

_ARRAY_KINDS = "fiubcUSmM"
_FACTORIES = {one.__name__: one for one in (int, float, str, list, dict, set, bool)}


class CannotKeepError(ValueError):
    """A value that cannot be kept.

    Attributes:
        path: Where in the given value it is: `"['best'][2]"`; empty for the value itself.
        why: What it is, for a message.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path or 'value'}: {why}")
        self.path, self.why = path, why


class _Simple(NamedTuple):
    """A kind that is rebuilt from something simpler."""

    kind: type
    take_apart: Callable[[Any], Any]
    build: Callable[[Any], Any]


_SIMPLE = {
    one.kind.__name__: one
    for one in (
        _Simple(tuple, list, tuple),
        _Simple(set, list, set),
        _Simple(frozenset, list, frozenset),
        _Simple(collections.OrderedDict, lambda v: list(v.items()), collections.OrderedDict),
        _Simple(collections.Counter, dict, collections.Counter),
        _Simple(collections.deque, lambda v: (list(v), v.maxlen), lambda v: collections.deque(*v)),
        _Simple(complex, lambda v: [v.real, v.imag], lambda v: complex(*v)),
        _Simple(bytes, bytes.hex, bytes.fromhex),
        _Simple(bytearray, bytes.hex, bytearray.fromhex),
        _Simple(range, lambda v: [v.start, v.stop, v.step], lambda v: range(*v)),
        _Simple(datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
        _Simple(datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
        _Simple(
            datetime.timedelta,
            lambda v: [v.days, v.seconds, v.microseconds],
            lambda v: datetime.timedelta(*v),
        ),
        _Simple(type(pathlib.Path()), str, pathlib.Path),
        _Simple(pathlib.PurePosixPath, str, pathlib.PurePosixPath),
    )
}


class Writer:
    """Takes values apart.

    Args:
        known: What is stored elsewhere or comes again with the program, and is only pointed at:
            (object, name) for each. The name tells it from others.

    Attributes:
        arrays: The arrays of what was put, as bytes.
        objects: The form of each object with a state that was put, by its path.
    """

    def __init__(self, known: Sequence[tuple[Any, str]] = ()) -> None:
        self.arrays: list[np.ndarray] = []
        self.objects: dict[str, stateful.Form] = {}
        self._known = {id(one): (one, name) for one, name in known}
        self._open: list[int] = []

    def put(self, value: Any, path: str = "") -> Any:
        """Returns a value as JSON; its arrays join `arrays`.

        Raises:
            CannotKeepError: If it, or something in it, cannot be kept.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) in self._known:
            return {"kind": "known", "name": self._known[id(value)][1]}
        if id(value) in self._open:
            raise CannotKeepError(path, "contains itself")
        self._open.append(id(value))
        try:
            return self._put(value, path)
        finally:
            self._open.pop()

    def _put(self, value: Any, path: str) -> Any:
        if type(value) is list:
            return [self.put(one, f"{path}[{i}]") for i, one in enumerate(value)]
        if type(value) is dict:
            return {"kind": "dict", "items": self._items(value, path)}
        if type(value) is collections.defaultdict:
            factory = getattr(value.default_factory, "__name__", None)
            if value.default_factory not in (None, *_FACTORIES.values()):
                raise CannotKeepError(path, f"is a defaultdict of {factory}")
            items = self._items(value, path)
            return {"kind": "defaultdict", "factory": factory, "items": items}
        if isinstance(value, np.generic):
            # As an array of one: a scalar of any dtype comes back as it was.
            return {"kind": "scalar", "array": self._array(np.asarray(value), path)}
        if type(value) is np.ndarray:
            return {"kind": "array", "array": self._array(value, path)}
        if isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
            return {"kind": "tensor", "array": self._array(value.numpy(), path)}
        states = stateful.state_of(value)
        if states is not None:
            self.objects[path] = stateful.form_of(value)
            own = self.put(states, path)
            return {"kind": "object", "class": type(value).__name__, "state": own}
        simple = _SIMPLE.get(type(value).__name__)
        if simple is None or type(value) is not simple.kind:
            raise CannotKeepError(path, f"is a {_class_name(value)}")
        zone = getattr(value, "tzinfo", None)
        if zone not in (None, datetime.UTC):
            raise CannotKeepError(path, f"has the time zone {zone}")
        return {"kind": type(value).__name__, "from": self.put(simple.take_apart(value), path)}

    def _items(self, value: Mapping[Any, Any], path: str) -> list[list[Any]]:
        return [
            [self.put(key, f"{path}, key {key!r}"), self.put(one, f"{path}[{key!r}]")]
            for key, one in value.items()
        ]

    def _array(self, value: Any, path: str) -> dict[str, Any]:
        value = np.asarray(value)
        name = _dtype_name(value.dtype)
        if name is None:
            if value.dtype != object:
                raise CannotKeepError(path, f"is an array of dtype {value.dtype}")
            items = self.put(value.ravel().tolist(), path)
            return {"items": items, "shape": list(value.shape)}
        described = {"place": len(self.arrays), "dtype": name, "shape": list(value.shape)}
        # A copy: what is written later, or twice, must not follow what the callback does.
        self.arrays.append(np.frombuffer(value.tobytes(), "uint8"))
        return described


def restored_value(
    stored: Any,
    arrays: Sequence[Any],
    present: Any = None,
    known: Mapping[str, Any] | None = None,
    path: str = "",
) -> Any:
    """Returns a value that `Writer.put` took apart; arrays in it are new and writable.

    Args:
        stored: What `put` returned.
        arrays: The bytes of the arrays, in the order of `Writer.arrays`.
        present: What the restarted program has at this place: objects that hold a state get it
            back, and are the ones returned.
        known: What `Writer` only pointed at, by name.
        path: Where this value is, for messages.

    Raises:
        ValueError: If an object is not there to take its state.
    """

    def inner(one: Any, at: Any = None, where: str = "") -> Any:
        return restored_value(one, arrays, at, known, path + where)

    if isinstance(stored, list):
        places = present if isinstance(present, (list, tuple)) else ()
        return [
            inner(one, places[i] if i < len(places) else None, f"[{i}]")
            for i, one in enumerate(stored)
        ]
    if not isinstance(stored, dict):
        return stored
    kind = stored["kind"]
    if kind == "known":
        return (known or {})[stored["name"]]
    if kind in ("dict", "defaultdict"):
        there = present if isinstance(present, dict) else {}
        pairs = ((inner(key), one) for key, one in stored["items"])
        items = {key: inner(one, there.get(key), f"[{key!r}]") for key, one in pairs}
        if kind == "dict":
            return items
        return collections.defaultdict(_FACTORIES.get(stored["factory"]), items)
    if kind in ("scalar", "array", "tensor"):
        value = _array_back(stored["array"], arrays, inner)
        if kind == "tensor":
            return tf.constant(value)
        return value[()] if kind == "scalar" else value
    if kind == "object":
        state = inner(stored["state"])
        if type(present).__name__ != stored["class"] or not stateful.give_back(present, state):
            raise ValueError(
                f"{path} was a {stored['class']} whose state is in the checkpoint, which needs "
                "one of the same shapes there when training begins: make it in the constructor or "
                f"in on_train_begin{stateful.how_to_build(present)}. "
                f"Received: {_class_name(present)}"
            )
        return present
    simple = _SIMPLE[kind]
    parts = simple.take_apart(present) if type(present) is simple.kind else None
    return simple.build(inner(stored["from"], parts))


def _array_back(described: Mapping[str, Any], arrays: Sequence[Any], inner: Any) -> np.ndarray:
    shape = tuple(described["shape"])
    if "items" in described:
        value = np.empty(shape, object)
        value.reshape(-1)[:] = inner(described["items"])
        return value
    content = bytearray(arrays[described["place"]])  # its own bytes, which can be written
    return np.frombuffer(content, np.dtype(described["dtype"])).reshape(shape)


def _dtype_name(dtype: np.dtype) -> str | None:
    """Returns a dtype's name, from which NumPy makes it again; `None` where there is none."""
    for name in (dtype.str, dtype.name) if dtype.kind in _ARRAY_KINDS else (dtype.name,):
        try:
            if np.dtype(name) == dtype and dtype.kind != "O" and dtype.names is None:
                return name
        except TypeError:
            continue
    return None


def _class_name(value: Any) -> str:
    kind = type(value)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{home}{kind.__qualname__}"
