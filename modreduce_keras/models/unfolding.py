"""Unfolding: takes layers of one's own, which are made of other layers, apart."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras.copying import KERAS_LAYERS, copy_state, parts
from modreduce_keras.keras_internals import calls_in_order, calls_of
from modreduce_keras.models.clones import rebuilt
from modreduce_keras.models.same_outputs import require_same_outputs
from modreduce_keras.models.structure import is_composite


def unfolded(layer: keras.Operation) -> keras.Model | None:
    """Returns a functional model that computes what a layer of other layers does.

    It is traced from the layer's `call`, and compared with it on random inputs. Its layers are
    copies of those in the layer, with their state.

    Args:
        layer: A layer of a model.

    Returns:
        The model, of the layer's name, or `None` where this is not possible: the layer is one of
        Keras' own or has no others in it, has weights or several inputs of its own, cannot be
        rebuilt, or does something else in training.
    """
    is_model = isinstance(layer, keras.Model)
    if is_model and getattr(layer, "inputs", None):
        return None
    if type(layer) in KERAS_LAYERS or not is_composite(layer):
        return None
    try:
        return _traced(layer)
    except Exception:  # what a `call` raises on symbolic inputs may be anything
        return None


def _traced(layer: Any) -> keras.Model | None:
    given = keras.tree.flatten(calls_of(layer)[0].inputs)
    if len(given) != 1:
        return None
    inputs = keras.Input(batch_shape=given[0].shape, dtype=given[0].dtype)
    copy = rebuilt(layer)
    whole = keras.Model(inputs, copy(inputs))
    copy_state(layer, copy)
    for one, other in zip(parts(layer), parts(copy), strict=True):
        other.trainable = one.trainable
    model = _called(copy, inputs, training=None)
    # On a copy of its own: a layer that is called twice has no output that is known.
    other = rebuilt(layer)
    other(inputs)
    trained = _called(other, inputs, training=True)
    if _calls(model, copy) != _calls(trained, other) or _weights(model) != _weights(copy):
        return None
    require_same_outputs(whole, model)
    return model


def _called(copy: Any, inputs: keras.KerasTensor, training: bool | None) -> keras.Model:
    takes = "training" in inspect.signature(copy.call).parameters
    options = {"training": training} if takes else {}
    return keras.Model(inputs, copy.call(inputs, **options), name=copy.name)


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
        settings = index.get(id(one.operation), _settings(one.operation))
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


def _weights(layer: Any) -> set[int]:
    return {id(one) for one in layer.weights}
