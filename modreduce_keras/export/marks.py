"""Marks: finds the layer of a model that an operation of its TFLite file comes from."""

import contextlib
import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from modreduce_keras.keras_internals import (
    delete_unnoticed,
    flatten_layers,
    operation_of,
    set_unnoticed,
)

_MARK = re.compile(r"(?:^|/)mr\.(\d+)(?:_\d+)?(?=/)")
"""The scope of an operation in TensorFlow's graph; the converter hands its name on."""
_QUOTED = re.compile(r'"([^"]*)"')
_JOINED = ";"
"""Stands between the names of operations that the converter fuses."""


class Marks:
    """The layers of a model, and the names that their operations have in its graph.

    Layers' own names do not tell: TensorFlow numbers them anew.

    Args:
        model: The model that is traced.
    """

    def __init__(self, model: keras.Model) -> None:
        self._operations: dict[int, keras.Operation] = {}
        self._paths: dict[int, list[str]] = {}
        for path, one in _operations(model):
            self._operations[id(one)] = one
            self._paths.setdefault(id(one), []).append(path)
        self._numbered = list(self._operations)
        self._last = _last(model)

    def paths_of(self, layer: keras.Operation) -> list[str]:
        """Returns where a layer stands: its name, after those of what it is in, `"block/norm"`."""
        return self._paths[id(layer)]

    def paths(self, tensor: str) -> list[str]:
        """Returns the layers whose results a tensor holds, the last one first.

        Args:
            tensor: Its name in the file, before that is made compact.
        """
        found = []
        for part in tensor.split(_JOINED):
            numbers = _MARK.findall(part)
            found.extend(self._paths[self._numbered[int(numbers[-1])]] if numbers else [])
        # The output has the name that it is served by.
        return list(dict.fromkeys(found)) or self._last

    def by_layer(self, operations: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
        """Returns the names of operations by the path of the layer that they are of.

        Args:
            operations: (name, places) of each; a place is the name that it has in a graph.
        """
        found: dict[str, set[str]] = {}
        for operation, places in operations:
            marked = [place for place in places if _MARK.search(place)]
            paths = [path for place in marked for path in self.paths(place)] or self._last
            found.setdefault(paths[0] if paths else "?", set()).add(operation)
        return {path: sorted(names) for path, names in found.items()}

    def require_names(self, argument: str, names: Collection[str]) -> None:
        """Raises a `ValueError` unless names are those of layers, or ends of their paths."""
        known = [path for paths in self._paths.values() for path in paths]
        for name in names:
            if not any(is_of(path, [name]) for path in known):
                close = difflib.get_close_matches(name, known, n=3) or known[:20]
                raise ValueError(
                    f"{argument} must be True or names of layers of the student, like {close}. "
                    f"Received: {name!r}"
                )

    @contextlib.contextmanager
    def traced(self, instead: Mapping[int, Callable[..., Any]]) -> Iterator[None]:
        """Marks what the layers compute meanwhile.

        Args:
            instead: By `id` of a layer: what computes in its place.
        """
        own = {key: vars(one).get("call") for key, one in self._operations.items()}
        try:
            for number, (key, one) in enumerate(self._operations.items()):
                call = instead.get(key, one.call)
                set_unnoticed(one, "call", _in_scope(f"mr.{number}", call))
            yield
        finally:
            for key, one in self._operations.items():
                if "call" in vars(one):
                    delete_unnoticed(one, "call")
                if own[key] is not None:
                    set_unnoticed(one, "call", own[key])


def is_of(path: str, names: Collection[str]) -> bool:
    """Returns whether a layer, by its path, has one of some names or is in a layer that has."""
    return any(f"/{name}/" in f"/{path}/" for name in names)


def without_marks(text: str) -> str:
    """Returns what the converter says without the marks."""
    return _MARK.sub("", text)


def _in_scope(scope: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def marked(*args: Any, **kwargs: Any) -> Any:
        with tf.name_scope(scope):
            return call(*args, **kwargs)

    return marked


def _operations(outer: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields what is in a layer, by path."""
    # Functions of keras.ops stand in functional models, and are not layers.
    functions = [one for one in getattr(outer, "operations", ()) if _is_function(one)]
    for one in [*flatten_layers(outer, include_self=False, recursive=False), *functions]:
        yield f"{prefix}{one.name}", one
        if isinstance(one, keras.layers.Layer):
            yield from _operations(one, f"{prefix}{one.name}/")


def _is_function(one: Any) -> bool:
    return isinstance(one, keras.Operation) and not isinstance(one, keras.layers.Layer)


def _last(model: keras.Model) -> list[str]:
    """Returns the path of what gives the model's output, where it can be told."""
    names = []
    while getattr(model, "outputs", None):
        model = operation_of(model.outputs[0])
        names.append(model.name)
    return ["/".join(names)] if names else []
