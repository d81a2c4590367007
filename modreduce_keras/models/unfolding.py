"""Unfolding: takes layers of one's own, which are made of other layers, apart."""

import inspect
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
    if _calls(model) != _calls(trained) or _weights(model) != _weights(copy):
        return None
    require_same_outputs(whole, model)
    return model


def _called(copy: Any, inputs: keras.KerasTensor, training: bool | None) -> keras.Model:
    takes = "training" in inspect.signature(copy.call).parameters
    options = {"training": training} if takes else {}
    return keras.Model(inputs, copy.call(inputs, **options), name=copy.name)


def _calls(model: keras.Model) -> list[str]:
    """Returns what is called, and with which numbers, such as a scale of training alone."""
    return [f"{type(one.operation)} {one.constants}" for one in calls_in_order(model)]


def _weights(layer: Any) -> set[int]:
    return {id(one) for one in layer.weights}
