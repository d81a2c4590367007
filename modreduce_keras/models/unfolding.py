"""Unfolding: takes layers of one's own, which are made of other layers and operations, apart."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from modreduce_keras.copying import KERAS_LAYERS, copy_state, parts
from modreduce_keras.keras_internals import (
    arguments_of,
    call_showing_scores,
    calls_in_order,
    calls_of,
    mask_of,
    run_graph,
)
from modreduce_keras.models.clones import rebuilt
from modreduce_keras.models.held_weights import OnlyInTraining
from modreduce_keras.models.kernel_wrapper import KernelWrapper
from modreduce_keras.models.names import NewNames
from modreduce_keras.models.open_batches import batch_for, for_any_batch
from modreduce_keras.models.same_outputs import require_same_outputs
from modreduce_keras.models.symbolic_weights import Held, symbolic_weights

OPENED = (
    keras.layers.Embedding,
    keras.layers.MultiHeadAttention,
    keras.layers.ReversibleEmbedding,
)
"""Layers of Keras that are made of others or of operations."""


class Unfolded(NamedTuple):
    """What a layer is made of.

    Attributes:
        model: Takes a list of the tensors that the layer is given, and returns a list of those of
            its results that depend on these.
        results: All results of the layer, in their structure, with symbolic tensors for these.
    """

    model: keras.Model
    results: Any

    def filled(self, made: Any) -> Any:
        """Returns all results, in their structure, of those that the model computes."""
        others = iter(keras.tree.flatten(made))
        flat = keras.tree.flatten(self.results)
        flat = [next(others) if _is_symbolic(one) else one for one in flat]
        return keras.tree.pack_sequence_as(self.results, flat)


def unfolded(layer: keras.Operation) -> Unfolded | None:
    """Returns a functional model that computes what a layer of other layers or operations does.

    It is traced from the layer's `call`, and compared with it on random inputs. Its layers are
    copies of those in the layer, with their state; weights of the layer itself are layers of their
    own.

    Args:
        layer: A layer of a model.

    Returns:
        The model, of the layer's name, and its results; or `None` where this is not possible: the
        layer is one of Keras' own that is not opened, is called in several ways, cannot be rebuilt,
        or does something else in training.
    """
    if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
        return None
    known = type(layer) in KERAS_LAYERS and type(layer) not in OPENED
    if known or not isinstance(layer, keras.layers.Layer) or isinstance(layer, KernelWrapper):
        return None
    if type(layer).__module__.startswith("modreduce_keras"):
        return None
    for opens_all in (False, True):
        # What a `call` raises on symbolic inputs may be anything.
        with contextlib.suppress(Exception):
            return _traced(layer, opens_all)
    return None


def only_in_training(layer: keras.Operation) -> OnlyInTraining | None:
    """Returns a copy of a layer that gives its inputs in inference, or `None` if it does not."""
    is_own = isinstance(layer, keras.layers.Layer) and type(layer) not in KERAS_LAYERS
    if not is_own or isinstance(layer, keras.Model) or layer.trainable_variables:
        return None
    try:
        inputs = [_like(one) for one in calls_of(layer)[0].inputs]
        if len(inputs) != 1 or rebuilt(layer).call(*inputs, training=False) is not inputs[0]:
            return None
        copy = rebuilt(layer)
        wrapped = OnlyInTraining(copy)
        copy.build(inputs[0].shape)
        copy_state(layer, copy)
    except Exception:  # as above
        return None
    return wrapped


def _like(tensor: keras.KerasTensor, batch: int | None = None) -> keras.KerasTensor:
    return keras.Input(batch_shape=(batch, *tensor.shape[1:]), dtype=tensor.dtype)


def _traced(layer: Any, opens_all: bool = False) -> Unfolded | None:
    calls = calls_of(layer)
    given = calls[0].inputs
    is_masked = any(mask_of(one) is not None for call in calls for one in call.inputs)
    if is_masked or len({str(_forms(one)) for one in arguments_of(layer)}) != 1:
        return None
    batch = batch_for([one.shape for one in given], parts(layer))
    inputs = [_like(one, batch) for one in given]
    arguments = _Arguments(*arguments_of(layer)[0])
    copy, other, result = (_copied(layer, arguments, inputs) for _ in range(3))
    with symbolic_weights(copy, inputs[0], opens_all=opens_all) as held:
        results = arguments.inside(copy, inputs, None)
        model = _model(inputs, results, layer.name)
    with symbolic_weights(other, inputs[0], opens_all=opens_all):
        trained = _model(inputs, arguments.inside(other, inputs, True), layer.name)
    if _calls(model, copy) != _calls(trained, other) or _weights(model, held) != _own(copy):
        return None
    everything = zip(
        *map(keras.tree.flatten, (results, arguments.called(copy, inputs))), strict=True
    )
    whole = keras.Model(inputs, [one for made, one in everything if _is_symbolic(made)])
    require_same_outputs(whole, model)
    pairs = {id(one): new for one, new in zip(parts(copy), parts(result), strict=True)}
    return Unfolded(_for_any_batch(model, pairs, [_like(one) for one in given], batch), results)


def _is_symbolic(given: Any) -> bool:
    return isinstance(given, keras.KerasTensor)


def _model(inputs: list[keras.KerasTensor], results: Any, name: str) -> keras.Model:
    outputs = list(filter(_is_symbolic, keras.tree.flatten(results)))
    NewNames(()).name_apart(outputs, inputs)  # inside of different layers names may be equal
    return keras.Model(inputs, outputs, name=name)


def _forms(given: Any) -> Any:
    """Returns what calls of a layer must have in common to be computed by one model."""
    return keras.tree.map_structure(
        lambda one: (one.shape, one.dtype) if _is_symbolic(one) else repr(one),
        given,
    )


def _copied(layer: Any, arguments: "_Arguments", inputs: Any) -> Any:
    copy = rebuilt(layer)
    arguments.called(copy, inputs)
    copy_state(layer, copy)
    for one, other in zip(parts(layer), parts(copy), strict=True):
        other.trainable = one.trainable
    return copy


class _Arguments:
    """How a layer is called, with other tensors.

    Args:
        args: What it is given by place.
        kwargs: What it is given by name.
    """

    def __init__(self, args: Any, kwargs: Any) -> None:
        self._args = args
        self._kwargs = {name: one for name, one in kwargs.items() if name != "training"}

    def called(self, layer: Any, inputs: list[keras.KerasTensor]) -> Any:
        """Returns what a copy of the layer gives."""
        args, kwargs = self._with(inputs)
        return layer(*args, **kwargs)

    def inside(self, layer: Any, inputs: list[keras.KerasTensor], training: bool | None) -> Any:
        """Returns the same, of operations and of the layers in the copy."""
        args, kwargs = self._with(inputs)
        if "training" in inspect.signature(layer.call).parameters:
            kwargs["training"] = training
        if isinstance(layer, keras.layers.MultiHeadAttention):
            return call_showing_scores(layer, layer.call, args, kwargs)
        return layer.call(*args, **kwargs)

    def _with(self, inputs: list[keras.KerasTensor]) -> tuple[Any, Any]:
        others = iter(inputs)
        flat = keras.tree.flatten((self._args, self._kwargs))
        flat = [next(others) if _is_symbolic(one) else one for one in flat]
        return keras.tree.pack_sequence_as((self._args, self._kwargs), flat)


def _for_any_batch(
    model: keras.Model, pairs: dict[int, Any], inputs: list[keras.KerasTensor], batch: int
) -> keras.Model:
    """Returns what a trace with one number of samples computes, for any number.

    Args:
        model: The trace.
        pairs: New layers by the `id` of those in it.
        inputs: Of the new model.
        batch: The number of samples.
    """

    def call(one: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if id(one) in pairs:
            return pairs[id(one)](*args, **kwargs)
        if not isinstance(one, keras.layers.Layer):
            return for_any_batch(one, batch, inputs[0])(*args, **kwargs)
        new = pairs[id(one)] = rebuilt(one)
        outputs = new(*args, **kwargs)
        copy_state(one, new)
        return outputs

    return _model(inputs, run_graph(model, inputs, call), model.name)


def _calls(model: keras.Model, layer: Any) -> list[Any]:
    """Returns what is called on what, and with which settings and numbers.

    A layer may compute something of the same operations in training, with another scale or limit.

    Args:
        model: Runs the `call` of the layer.
        layer: The layer.
    """
    index = {id(part): number for number, part in enumerate(parts(layer))}
    tensors = {id(tensor): number for number, tensor in enumerate(model.inputs)}
    found = []
    for one in calls_in_order(model):
        number = index.get(id(one.operation))
        settings = _settings(one.operation) if number is None else number
        given = [tensors[id(tensor)] for tensor in one.inputs]
        found.append((type(one.operation), settings, given, _comparable(one.constants)))
        for tensor in one.outputs:
            tensors[id(tensor)] = len(tensors)
    return [*found, [tensors[id(tensor)] for tensor in model.outputs]]


def _settings(operation: keras.Operation) -> Any:
    """Returns what an operation holds, such as the limits of a clip."""
    if isinstance(operation, keras.layers.Layer):  # one that `call` makes
        held = operation.get_config()
    else:
        held = {name: one for name, one in vars(operation).items() if not name.startswith("_")}
    return _comparable({name: held[name] for name in sorted(held) if name != "name"})


def _comparable(value: Any) -> Any:
    """Returns a value so that equal ones are `==`, arrays too."""
    if isinstance(value, Mapping):
        return {str(key): _comparable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(one) for one in value]
    if isinstance(value, slice):
        return ["slice", _comparable([value.start, value.stop, value.step])]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    try:
        array = keras.ops.convert_to_numpy(value)
    except (TypeError, ValueError):
        return repr(value)
    return [array.dtype.str, array.tolist()]


def _weights(model: keras.Model, held: Held) -> set[int]:
    """Returns the weights that a trace computes with, those that layers stand for too."""
    found: set[int] = set()
    for layer in model.layers:
        variable = held.variables.get(id(layer))
        found |= _own(layer) if variable is None else {id(variable)}
    return found


def _own(layer: keras.layers.Layer) -> set[int]:
    return {id(one) for one in layer.weights}
