"""Deep layers: one layer that runs a list of like blocks, as the encoder of a vision transformer.

Only what can be seen to be such a layer is taken for one: its config says the number of blocks, it
keeps them in one list, and on made-up inputs each block is given what the one before it gave.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import keras
from keras import ops

from modreduce_keras.copying import copy_state
from modreduce_keras.keras_internals import (
    calls_of,
    delete_unnoticed,
    flatten_layers,
    set_unnoticed,
)
from modreduce_keras.models.clones import draws_kept

DEPTH = "num_layers"
"""What configs of keras-hub call the number of blocks."""


class DeepLayer(NamedTuple):
    """A layer that runs like blocks one after another.

    Attributes:
        layer: The layer.
        blocks: The layers in it that are alike, in their order.
        within: The model that it is in, and those that this is nested in, innermost first.
    """

    layer: keras.layers.Layer
    blocks: list[keras.layers.Layer]
    within: list[keras.Model]


def deep_layer_of(model: keras.Model) -> DeepLayer | None:
    """Returns the only deep layer of a functional or Sequential model; `None` if it has none."""
    found = _deep_layers(model, [])
    return found[0] if len(found) == 1 else None


def shortened(deep: DeepLayer, kept: list[int]) -> keras.layers.Layer:
    """Returns a new layer of some of the blocks of a deep one, with their state.

    Raises:
        ValueError: If the class does not build the layer with fewer blocks, or the state cannot be
            copied.
    """
    layer = deep.layer
    with draws_kept():
        fresh = type(layer).from_config({**layer.get_config(), DEPTH: len(kept)})
        fresh.build_from_config(layer.get_build_config())
    blocks = _blocks(fresh)
    if blocks is None or len(blocks) != len(kept):
        raise ValueError(f"{layer.name!r} cannot be built with {len(kept)} blocks")
    for number, block in zip(kept, blocks, strict=True):
        copy_state(deep.blocks[number], block)
    for one, other in zip(_beside(layer, deep.blocks), _beside(fresh, blocks), strict=True):
        copy_state(one, other)
    return fresh


def _deep_layers(model: keras.Model, outer: list[keras.Model]) -> list[DeepLayer]:
    within, found = [model, *outer], []
    for layer in model.layers if getattr(model, "inputs", None) else []:
        if isinstance(layer, keras.Model):
            found += _deep_layers(layer, within)
            continue
        blocks = _blocks(layer)
        if blocks is not None and _is_chain(layer, blocks):
            found.append(DeepLayer(layer, blocks, within))
    return found


def _blocks(layer: keras.layers.Layer) -> list[keras.layers.Layer] | None:
    """Returns the list of like layers in a layer whose config says how many they are."""
    try:
        depth = layer.get_config().get(DEPTH)
    except Exception:  # a class without one
        return None
    lists = [list(one) for one in vars(layer).values() if isinstance(one, (list, tuple))]
    found = [one for one in lists if len(one) == depth and _are_alike(one)]
    return found[0] if len(found) == 1 and not _own_weights(layer) else None


def _are_alike(layers: list[Any]) -> bool:
    if not layers or not all(isinstance(one, keras.layers.Layer) for one in layers):
        return False
    first, *others = [(type(one), [tuple(w.shape) for w in one.weights]) for one in layers]
    weights = {id(weight) for one in layers for weight in one.weights}
    return (
        bool(first[1])
        and all(other == first for other in others)
        and len(weights) == sum(len(one.weights) for one in layers)
    )


def _own_weights(layer: keras.layers.Layer) -> list[Any]:
    """Returns the weights of a layer that are in no layer inside it."""
    inside = {id(w) for one in flatten_layers(layer, include_self=False) for w in one.weights}
    return [weight for weight in layer.weights if id(weight) not in inside]


def _beside(layer: keras.layers.Layer, blocks: list[Any]) -> list[keras.layers.Layer]:
    """Returns the layers one level down that are none of the blocks."""
    inside = flatten_layers(layer, include_self=False, recursive=False)
    return [one for one in inside if not any(one is block for block in blocks)]


def _is_chain(layer: keras.layers.Layer, blocks: list[keras.layers.Layer]) -> bool:
    """Returns whether each block is given what the one before gave, and nothing else."""
    seen: list[tuple[int, Any, Any]] = []

    def recorded(number: int, block: keras.layers.Layer) -> Any:
        call = block.call

        def run(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            given = [one for one in keras.tree.flatten((args, kwargs)) if ops.is_tensor(one)]
            seen.append((number, given, outputs))
            return outputs

        return run

    inputs = _made_up(layer)
    if inputs is None:
        return False
    for number, block in enumerate(blocks):
        set_unnoticed(block, "call", recorded(number, block))
    try:
        with keras.StatelessScope():
            layer(inputs, training=False)
    except Exception:
        return False
    finally:
        for block in blocks:
            delete_unnoticed(block, "call")
    numbers = [number for number, _, _ in seen]
    given = [len(tensors) == 1 for _, tensors, _ in seen]
    follows = all(after[1][0] is one[2] for one, after in pairwise(seen))
    return numbers == list(range(len(blocks))) and all(given) and follows


def _made_up(layer: keras.layers.Layer) -> Any:
    """Returns an input of a layer that takes one tensor; `None` of others."""
    calls = calls_of(layer)
    if not calls or len(calls[0].inputs) != 1:
        return None
    (tensor,) = calls[0].inputs
    shape = [2, *(8 if size is None else size for size in tensor.shape[1:])]
    return ops.cast(keras.random.normal(shape, seed=0), tensor.dtype)
