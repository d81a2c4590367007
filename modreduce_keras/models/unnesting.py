"""Unnesting: a model with the layers of those in it in their place."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras

from modreduce_keras.keras_internals import operations_in, run_graph
from modreduce_keras.models.clones import copy_model
from modreduce_keras.models.graph import functional, new_inputs
from modreduce_keras.models.head_kinds import graph_outputs
from modreduce_keras.models.names import free_name

Found = TypeVar("Found")


def unnested(model: keras.Model, find: Callable[[keras.Model], Found]) -> tuple[keras.Model, Found]:
    """Returns a functional model without others in it, and what is found in the model.

    Where there are others in it, it is a copy: layers of nested models that have the name of
    another one are renamed, `"inner_conv"`.

    Args:
        model: A functional or a built Sequential model.
        find: Is given the model, with the same layers, while there are others in it.

    Raises:
        ValueError: If a subclassed model is in it.
    """
    flat = functional(model)
    if not any(isinstance(layer, keras.Model) for layer in flat.layers):
        return flat, find(flat)
    copy = functional(copy_model(model))
    found = find(copy)
    _name_apart(copy)
    inputs = new_inputs(copy)
    copy = keras.Model(inputs, run_graph(copy, inputs, _inside), name=model.name)
    nested = [layer.name for layer in copy.layers if isinstance(layer, keras.Model)]
    if nested:
        raise ValueError(
            "model must have no subclassed models in it: build them as functional ones, "
            f"keras.Model(inputs, outputs). Received: {model.name!r} with {nested}"
        )
    return copy, found


def _inside(layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer, or in place of a model that runs its graph the layers of that."""
    if graph_outputs(layer):
        return run_graph(layer, args[0], _inside)
    return layer(*args, **kwargs)


def _name_apart(model: keras.Model) -> None:
    """Gives operations of nested models other names than those outside, where they are equal."""
    inside = list(_parts(model))
    # Of the names outside, those of the inputs stay as well.
    owners = {one.name: one for one in operations_in(model) if not graph_outputs(one)}
    names = {one.name for _, one in inside} | owners.keys()
    for within, one in inside:
        if owners.setdefault(one.name, one) is one:
            continue
        one.name = free_name(f"{within}_{one.name}", names)
        names.add(one.name)
        owners[one.name] = one


def _parts(model: keras.Model) -> Iterator[tuple[str, keras.Operation]]:
    """Returns the operations that a model is made of, those outside first, and whose they are."""
    operations = operations_in(model)
    for one in operations:
        if not graph_outputs(one) and not isinstance(one, keras.layers.InputLayer):
            yield model.name, one
    for one in filter(graph_outputs, operations):
        yield from _parts(one)
