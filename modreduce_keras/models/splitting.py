"""Splitting: copies a model, and those nested in it, with several layers in the place of some."""

from collections.abc import Callable
from typing import Any

import keras

from modreduce_keras.keras_internals import run_graph
from modreduce_keras.models.graph import functional, new_inputs
from modreduce_keras.models.names import NewNames

Part = Callable[..., Any]


class Splitter:
    """Base class: copies a model; what models share stays shared.

    To use it, write `part`, and add to `give_states` what sets the state of a new layer, which is
    done once the layers are built.
    """

    def __init__(self) -> None:
        self.give_states: list[Callable[[], None]] = []
        self._made: dict[int, Part] = {}

    def split(self, model: keras.Model) -> keras.Model:
        """Returns the copy of a functional or a built Sequential model."""
        flat = functional(model)
        names = NewNames(one.name for one in flat.operations)

        def call(layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
            outputs = self._rebuild(layer)(*args, **kwargs)
            names.name_apart(outputs, (args, kwargs), layer.name)
            return outputs

        inputs = new_inputs(flat)
        copy = keras.Model(inputs, run_graph(flat, inputs, call), name=flat.name)
        while self.give_states:
            self.give_states.pop()()
        return copy

    def part(self, layer: keras.Operation) -> Part:
        """Returns what stands in the place of a layer."""
        raise NotImplementedError

    def _rebuild(self, layer: keras.Operation) -> Part:
        if id(layer) not in self._made:
            self._made[id(layer)] = self.part(layer)
        return self._made[id(layer)]
