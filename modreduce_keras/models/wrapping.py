"""Wrapping: copies of a model with wrappers around some layers, or with plain layers again."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.copying import copy_state
from modreduce_keras.models.clones import Cloner, draws_kept, rebuilt
from modreduce_keras.models.kernel_wrapper import KernelWrapper, MaskedKernel, plain_layer
from modreduce_keras.models.kernels import kernel_of

Replacement = Callable[[keras.layers.Layer], keras.layers.Layer]


def with_replaced(
    model: keras.Model, layers: Iterable[keras.layers.Layer], make: Replacement
) -> tuple[keras.Model, dict[int, Any]]:
    """Copies a model, with other layers in the place of some.

    Args:
        model: A functional or a Sequential model. Others in it may be nested.
        layers: Which layers are replaced.
        make: From a layer to the one that takes its place, whose state is left to the caller.

    Returns:
        The copy, and what stands in it, by the `id` of the layer that was replaced.
    """
    replaced: dict[int, Any] = {}
    within = models_in(model)
    with draws_kept():
        cloner = Cloner()
        for layer in layers:
            replaced[id(layer)] = make(layer)
            cloner.replace(layer, replaced[id(layer)], within)
        copy = cloner.clone(model)
    for one in within:
        for layer in one.layers:
            if id(layer) not in replaced and not any(layer is other for other in within):
                copy_state(layer, cloner.layer(layer))
    return copy, replaced


def with_wrappers(
    model: keras.Model, layers: Iterable[keras.layers.Layer], wrap: Replacement
) -> tuple[keras.Model, list[Any]]:
    """Copies a model with wrappers around some layers, and returns these as well.

    Args:
        model: A functional or a Sequential model. Others in it may be nested.
        layers: Which layers are wrapped.
        wrap: From a new layer of the same config to its wrapper.
    """
    chosen = list(layers)
    copy, made = with_replaced(model, chosen, lambda layer: wrap(rebuilt(layer)))
    for layer in chosen:
        copy_state(layer, made[id(layer)].layer)
    return copy, list(made.values())


def without_wrappers(model: keras.Model) -> tuple[keras.Model, dict[int, np.ndarray]]:
    """Copies a model, with plain layers, of the weights that are used, in place of wrapped ones.

    Args:
        model: A functional or a Sequential model. Others in it may be nested.

    Returns:
        The copy, and the masks of kernels that were masked, by the `id` of the plain layer.
    """
    within = models_in(model)
    wrapped = [one for each in within for one in each.layers if isinstance(one, KernelWrapper)]
    copy, made = with_replaced(model, wrapped, lambda layer: rebuilt(plain_layer(layer)))
    masks = {}
    for layer in wrapped:
        plain = made[id(layer)]
        copy_state(layer.plain, plain)
        kernel_of(plain).assign(layer.used_kernel())
        if isinstance(layer, MaskedKernel):
            masks[id(plain)] = ops.convert_to_numpy(layer.mask)
    return copy, masks


def models_in(model: keras.Model) -> list[keras.Model]:
    """Returns a model and those nested in it that can be rebuilt, each once."""
    found = [model]
    for layer in model.layers:
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            found += models_in(layer)
    return list({id(one): one for one in found}.values())
