"""Attention: the attention layers of a model, and what a pass shows of their maps."""

from typing import NamedTuple

import keras
from keras import ops

from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models.structure import paths_of
from modreduce_keras.recording import Record
from modreduce_keras.typing import Tensor

SCORES, LOGITS = "attention_scores", "attention_logits"
MAPS = (SCORES, LOGITS)
"""Last names of the taps that read attention maps."""
_KINDS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


class Attention(NamedTuple):
    """An attention layer.

    Attributes:
        path: Names from the model to it.
        layer: The layer.
        softmax: The layer in it that makes probabilities of logits.
    """

    path: str
    layer: keras.layers.Layer
    softmax: keras.layers.Layer


def attentions(model: keras.Model) -> list[Attention]:
    """Returns the attention layers of a model: those of Keras, and others with a softmax layer."""
    found = ((path, layer, _softmax_of(layer)) for path, layer in paths_of(model))
    seen: dict[int, Attention] = {}
    for path, layer, softmax in found:
        if softmax is not None:
            seen.setdefault(id(layer), Attention(path, layer, softmax))
    return list(seen.values())


def _softmax_of(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    if not (isinstance(layer, _KINDS) or "Attention" in type(layer).__name__):
        return None
    children = flatten_layers(layer, include_self=False, recursive=False)
    own = [child for child in children if isinstance(child, keras.layers.Softmax)]
    return own[0] if len(own) == 1 else None


def find(model: keras.Model, name: str) -> Attention:
    """Returns the attention layer that a tap of a map is of.

    Args:
        model: A built model.
        name: Name or path of an attention layer, or of a layer with one in it; `""`: the model's.

    Raises:
        ValueError: If there is none, or there are several; the message lists them.
    """
    everyone = attentions(model)
    known = [f"{one.path}/{SCORES}" for one in everyone]
    if not everyone:
        raise ValueError("it has no attention layer")
    paths = [path for path, _ in paths_of(model) if path == name or path.endswith(f"/{name}")]
    paths = [name] if name in paths else paths
    if name and not paths:
        raise ValueError(f"it has no layer {name!r}. Its attention maps are {known}")
    inside = {
        id(one.layer): one
        for one in everyone
        if not name or any(one.path == p or one.path.startswith(f"{p}/") for p in paths)
    }
    if len(inside) == 1:
        return next(iter(inside.values()))
    if not inside:
        raise ValueError(f"{name!r} has no attention layer in it. Its attention maps are {known}")
    several = [f"{one.path}/{SCORES}" for one in inside.values()]
    raise ValueError(f"that may be one of {several}: give the path of one")


def shown(name: str, record: Record) -> tuple[Tensor, Tensor | None]:
    """Returns an attention map and the mask of the pairs of query and key that it is of.

    Args:
        name: `SCORES` or `LOGITS`.
        record: A call of the softmax layer.

    Returns:
        (batch, heads, queries, keys), and (batch, queries, keys), bool, true where a query may
        attend to a key in some head; `None` if everywhere. Logits are zero elsewhere.
    """
    logits, *masks = [one for one in record.inputs if hasattr(one, "shape")]
    if not masks or len(logits.shape) != 4:
        return (record.output if name == SCORES else logits), None
    mask = ops.cast(masks[0], "float32") > 0.5  # as the softmax layer takes it
    while len(mask.shape) < 4:
        mask = ops.expand_dims(mask, 0)
    batch, _, queries, keys = ops.shape(logits)
    pairs = ops.broadcast_to(ops.any(mask, axis=1), (batch, queries, keys))
    if name == SCORES:
        return record.output, pairs
    return ops.where(mask, logits, ops.zeros((), logits.dtype)), pairs
