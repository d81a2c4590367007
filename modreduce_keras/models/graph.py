"""Graph: the layers of a functional or Sequential model, and how they are connected."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import keras

from modreduce_keras.keras_internals import (
    Call,
    calls_in,
    calls_of,
    flatten_layers,
    history_of,
    operation_of,
    operations_in,
    readers_of,
)

_USUAL = 128
"""Stands for a size that is not known."""


def functional(model: keras.Model) -> keras.Model:
    """Returns a functional model of the same layers, for one that may be Sequential."""
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def output_shape(model: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of a model's only output, with the batch; `None` where it is not known."""
    outputs = getattr(model, "outputs", None) or []
    return tuple(outputs[0].shape) if len(outputs) == 1 else None


def input_specs(model: keras.Model) -> Any:
    """Returns a built model's inputs as symbolic tensors, or `None` where they are not known."""
    if not model.built:
        return None
    if getattr(model, "inputs", None):
        # Only a functional model's `input` has the structure that calls take.
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {"input_shape": config.get("input_shape")}
    shape = next(iter(shapes.values()))
    if shape is None:
        return None
    return _map_shapes(lambda shape: keras.KerasTensor((None, *shape[1:]), "float32"), shape)


def output_specs(model: keras.Model) -> Any:
    """Returns a functional or Sequential model's output as symbolic tensors, `None` for others."""
    if not getattr(model, "outputs", None) or defined_by_user(model, "call"):
        return None
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output


def advice_on_sizes(model: keras.Model) -> str:
    """Returns the advice that what depends on sizes alone is computed before, if some are open."""
    specs = keras.tree.flatten(input_specs(model))
    shapes = [tuple(one.shape[1:]) for one in specs if None in one.shape[1:]]
    if not shapes:
        return ""
    known = tuple(_USUAL if size is None else size for size in shapes[0])
    given = f"keras.Input({known})" if len(specs) == 1 else "{'NAME': keras.Input(...), ...}"
    return (
        "give inputs known sizes, since what depends on these alone is then computed before "
        f"(x = {given}; student = keras.Model(x, student(x))), "
    )


def inputs_by_name(specs: Mapping[str, tuple[tuple[int | None, ...], str]]) -> tuple[Any, Any]:
    """Returns symbolic inputs of a model, and the same for a layer that takes several by name.

    Args:
        specs: Shape, with the batch, and dtype of each input by its name.

    Returns:
        One tensor twice; of several a dict by names with `_` for `/`, which Keras does not allow,
        and a dict by the names themselves.
    """
    if len(specs) == 1:
        ((shape, dtype),) = specs.values()
        single = keras.Input(batch_shape=shape, dtype=dtype)
        return single, single
    given = {
        key: keras.Input(batch_shape=shape, dtype=dtype, name=key.replace("/", "_"))
        for key, (shape, dtype) in specs.items()
    }
    return {key.replace("/", "_"): tensor for key, tensor in given.items()}, given


def named_outputs(model: keras.Model) -> dict[str, Any]:
    """Returns the symbolic outputs of a functional model that returns a dict, else nothing."""
    outputs = model.output if getattr(model, "output_names", None) else None
    return outputs if isinstance(outputs, dict) else {}


def own_inputs(model: keras.Model, inputs: Any) -> Any:
    """Returns what a functional model takes of a dict of inputs that has more.

    Keras goes by the order of the keys there, with a warning, and may take another one's tensor.
    """
    declared = input_specs(model) if getattr(model, "inputs", None) else None
    if not isinstance(inputs, Mapping) or declared is None:
        return inputs
    if isinstance(declared, Mapping):
        names = list(declared)
    else:
        names = [getattr(one, "name", None) for one in keras.tree.flatten(declared)]
    if not set(names) < set(inputs):
        return inputs
    if isinstance(declared, keras.KerasTensor):
        return inputs[names[0]]
    return {name: inputs[name] for name in names}


def _map_shapes(function: Any, shapes: Any) -> Any:
    if isinstance(shapes, dict):
        return {name: _map_shapes(function, shape) for name, shape in shapes.items()}
    if shapes and isinstance(shapes[0], (dict, list, tuple)):
        return [_map_shapes(function, shape) for shape in shapes]
    return function(tuple(shapes))


def new_inputs(model: keras.Model) -> Any:
    """Returns new symbolic inputs that are named and shaped like a functional model's."""
    return keras.tree.map_structure(_like, model.input)


def _like(tensor: Any) -> Any:
    layer = operation_of(tensor)
    return keras.Input(
        batch_shape=layer.batch_shape,
        dtype=layer.dtype,
        sparse=layer.sparse,
        ragged=layer.ragged,
        optional=layer.optional,
        name=layer.name,
    )


@functools.cache
def _classes_of_keras() -> tuple[type, ...]:
    inputs = keras.Input((1,))
    return (*keras.Model.__mro__, keras.Sequential, *type(keras.Model(inputs, inputs)).__mro__)


def defined_by_user(model: keras.Model, method: str) -> bool:
    """Returns whether a method of a model is not that of Keras' own classes of models."""
    if method != "build" and method in vars(model):  # Keras wraps `build` on each object
        return True
    owner = next((one for one in type(model).__mro__ if method in vars(one)), None)
    return owner is not None and owner not in _classes_of_keras()


def to_float(models: Iterable[keras.Model]) -> str:
    """Returns the advice of how integers become what models of floating-point inputs take."""
    scales = keras.layers.Rescaling, keras.layers.Normalization
    for model in models:
        for layer in flatten_layers(model):
            if isinstance(layer, scales):
                return (
                    f"Convert them, and leave the scale to the layer {layer.name!r} of "
                    f"{model.name!r}: x.astype('float32'), or dataset.map(lambda x, y: "
                    "(tf.cast(x, 'float32'), y))."
                )
    return (
        "Convert and scale the images as the teacher was trained, for example "
        "x.astype('float32') / 255, or dataset.map(lambda x, y: (tf.cast(x, 'float32') / 255, y))."
    )


class Reader(NamedTuple):
    """What reads a result.

    Attributes:
        graph: Of the model that it is in.
        operation: A layer or another operation, no model.
    """

    graph: "Graph"
    operation: keras.Operation


class Graph:
    """The operations of one model and what passes between them, without models nested in it.

    Layers may be part of several models; only what they do in this one is seen.

    Args:
        model: A functional or a built Sequential model.
        outer: The graph that the model is nested in. Defaults to `None`: it is in no other.

    Attributes:
        model: The model.
        outputs: The operations that give the model's outputs.
    """

    def __init__(self, model: keras.Model, outer: "Graph | None" = None) -> None:
        self.model, self._outer = model, outer
        self._calls = calls_in(model)
        self._operations = set(operations_in(model))
        self.outputs = {operation_of(tensor) for tensor in model.outputs}

    def source(self, layer: keras.layers.Layer) -> keras.Operation | None:
        """Returns the operation whose result a layer is given, if it runs once and is in here."""
        runs = self._own(calls_of(layer))
        if len(runs) != 1:
            return None
        source = operation_of(runs[0].inputs[0])
        return source if source in self._operations else None

    def output_of(self, layer: keras.Operation) -> Any:
        """Returns what an operation gives in here, or `None` unless it runs once."""
        runs = self._own(calls_of(layer))
        return runs[0].outputs if len(runs) == 1 else None

    def only_reader(self, operation: keras.Operation) -> keras.Operation | None:
        """Returns the one operation that reads another, if nobody else does and it runs once."""
        runs = self._own(calls_of(operation))
        readers = self._own(readers_of(operation))
        alone = len(runs) == len(readers) == 1 and operation not in self.outputs
        return readers[0].operation if alone else None

    def is_read_again(self, operation: keras.Operation) -> bool:
        """Returns whether an operation is read several times in here."""
        return len(self._own(readers_of(operation))) > 1

    def readers(self, operation: keras.Operation) -> list[Reader | None]:
        """Returns what reads an operation, inside nested models and in the outer one too.

        Returns:
            Operations and their graphs; `None` for an output of the outermost model.
        """
        places = [i for i, one in enumerate(self.model.outputs) if operation_of(one) is operation]
        inside = self.reading(readers_of(operation), lambda one: operation_of(one) is operation)
        return inside + self.readers_outside(places)

    def readers_outside(self, places: Collection[int]) -> list[Reader | None]:
        """Returns what reads some outputs of the model where it is nested."""
        outer = self._outer
        if not places or outer is None:
            return [None for _ in places]
        is_given = functools.partial(self._gives, places)
        passed = [i for i, one in enumerate(outer.model.outputs) if is_given(one)]
        return outer.reading(readers_of(self.model), is_given) + outer.readers_outside(passed)

    def _gives(self, places: Collection[int], tensor: keras.KerasTensor) -> bool:
        """Returns whether a tensor of the outer model is one of some outputs of this one."""
        source = history_of(tensor)
        return source.operation is self.model and source.output in places

    def reading(
        self, calls: Iterable[Call], is_read: Callable[[keras.KerasTensor], bool]
    ) -> list[Reader | None]:
        """Returns the readers of some tensors among calls; those in models that are called."""
        found: list[Reader | None] = []
        for call in self._own(calls):
            places = [i for i, tensor in enumerate(call.inputs) if is_read(tensor)]
            reader = call.operation
            if places and not (isinstance(reader, keras.Model) and getattr(reader, "inputs", None)):
                found.append(Reader(self, reader))
                continue
            for place in places:
                found += Graph(reader, self).readers(operation_of(reader.inputs[place]))
        return found

    def _own(self, calls: Iterable[Call]) -> list[Call]:
        return [call for call in calls if call.key in self._calls]
