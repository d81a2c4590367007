"""ReplacedCalls: layers that have another `call` while a pass over them is traced or run."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from modreduce_keras.keras_internals import delete_unnoticed, set_unnoticed

MakeCall = Callable[[Callable[..., Any]], Callable[..., Any]]


class ReplacedCalls:
    """Lays a `call` on layers for the length of a pass; the models stay as they are.

    Replicas are traced in threads that take turns inside one pass, so a layer keeps what lies on
    it until the last pass over it has ended.
    """

    def __init__(self) -> None:
        self._passes: dict[int, int] = {}
        self._before: dict[int, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def is_free(self, layer: keras.layers.Layer) -> bool:
        """Returns whether a layer's `call` is that of its class, or the one that lies on it."""
        return "call" not in vars(layer) or id(layer) in self._passes

    @contextlib.contextmanager
    def on(self, makers: Mapping[keras.layers.Layer, MakeCall]) -> Iterator[None]:
        """Replaces the `call` of layers.

        Args:
            makers: By layer, a function from the `call` there is to the one that takes its place.
        """
        laid: list[keras.layers.Layer] = []
        try:
            with self._lock:
                for layer, make in makers.items():
                    self._lay(layer, make)
                    laid.append(layer)
            yield
        finally:
            with self._lock:
                for layer in laid:
                    self._take_off(layer)

    def _lay(self, layer: keras.layers.Layer, make: MakeCall) -> None:
        if id(layer) not in self._passes:
            replacement = make(layer.call)
            if "call" in vars(layer):  # of an outer pass
                self._before[id(layer)] = layer.call
            set_unnoticed(layer, "call", replacement)
        self._passes[id(layer)] = self._passes.get(id(layer), 0) + 1

    def _take_off(self, layer: keras.layers.Layer) -> None:
        self._passes[id(layer)] -= 1
        if self._passes[id(layer)] == 0:
            del self._passes[id(layer)]
            delete_unnoticed(layer, "call")
            if id(layer) in self._before:
                set_unnoticed(layer, "call", self._before.pop(id(layer)))
