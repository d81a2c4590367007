"""Shared layers: a model in which layers of the same kind have the same weights."""

import fnmatch
from collections.abc import Iterable
from typing import Any

import keras

from modreduce_keras.calls import did_you_mean, listed
from modreduce_keras.copying import copy_state, described, kind_of
from modreduce_keras.models.choosing import paths_in, require_plain
from modreduce_keras.models.clones import draws_kept, rebuilt
from modreduce_keras.models.graph import new_inputs
from modreduce_keras.models.unnesting import unnested


def share_layers(model: keras.Model, *, layers: Iterable[str]) -> keras.Model:
    """Builds a copy of a model in which all layers that match a pattern share their weights.

    The first layer of each group, with its weights, is used in the place of all layers of the
    group. Its gradient is the sum over all places. The model has fewer weights, but the same number
    of multiply-adds.

    Train the result further with the model as its teacher.

    Args:
        model: A functional or a built Sequential model. Others in it may be nested; the result has
            their layers instead, named `"inner_dense"` where names are equal.
        layers: A pattern for each group, such as `["block*_attention", "block*_dense"]`, of names
            or, with a `/`, of paths (`"encoder/block*_dense"`). The layers of a group have the same
            class, the same config but for the name, and weights of the same shapes. Leave out batch
            normalizations: their statistics differ.

    Returns:
        A functional model. To tap the other places of a group, use the calls of its first layer,
        `"block1_dense:1"` and so on.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If its layers cannot be rebuilt; or if a pattern matches fewer than two layers,
            layers that differ, or a layer of another pattern.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> layers = [keras.layers.Dense(8, "relu", name=f"block{n}") for n in range(4)]
        >>> model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(2)])
        >>> shared = mr.models.share_layers(model, layers=["block*"])
        >>> model.count_params(), shared.count_params()
        (306, 90)

    Reference:
        Lan et al., ALBERT: A Lite BERT for Self-supervised Learning of Language Representations,
        2020. There the model is trained from scratch.
    """
    require_plain(model, "model")
    flat, first = unnested(model, lambda copy: _firsts(copy, layers))
    made: dict[int, Any] = {}

    def rebuild(layer: keras.Operation) -> keras.Operation:
        layer = first.get(id(layer), layer)
        if id(layer) not in made:
            made[id(layer)] = rebuilt(layer)
        return made[id(layer)]

    with draws_kept():
        copy = keras.models.clone_model(
            flat,
            new_inputs(flat),
            clone_function=rebuild,
            call_function=lambda layer, *args, **kwargs: layer(*args, **kwargs),
        )
    for layer in flat.layers:
        if id(layer) in made:
            copy_state(layer, made[id(layer)])
    return copy


def _firsts(model: keras.Model, patterns: Any) -> dict[int, keras.layers.Layer]:
    """Returns the layer that takes the place of each one of a group, by the `id` of that one."""
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ValueError(
            "layers must be a list with a pattern for each group, such as ['block*_dense']. "
            f"Received: layers={patterns!r}"
        )
    first: dict[int, keras.layers.Layer] = {}
    paths = [(path, one) for path, one in paths_in(model) if not isinstance(one, keras.Model)]
    for pattern in patterns:
        # A nested model that is called twice is in two places.
        group = list({id(one): one for path, one in paths if _is_meant(pattern, path)}.values())
        names = [one.name for one in group]
        if len(group) < 2:
            every = [path for path, _ in paths]
            hint = did_you_mean(str(pattern), every) or f" It has {listed(every)}."
            raise ValueError(
                f"Each pattern of layers must match at least two layers of {model.name!r}.{hint} "
                f"Received: {pattern!r}, which matches {names}"
            )
        twice = [one.name for one in group if id(one) in first]
        if twice:
            raise ValueError(
                f"Each layer must be in one group. Received: {pattern!r}, which means {twice} again"
            )
        for one in group[1:]:
            _require_same(group[0], one, pattern)
        first |= {id(one): group[0] for one in group}
    if not first:
        raise ValueError("layers must have at least one pattern. Received: none")
    return first


def _is_meant(pattern: Any, path: str) -> bool:
    name = path if "/" in str(pattern) else path.rpartition("/")[2]
    return fnmatch.fnmatchcase(name, str(pattern))


def _require_same(layer: keras.layers.Layer, other: keras.layers.Layer, pattern: str) -> None:
    same = kind_of(layer) == kind_of(other) and _config(layer) == _config(other)
    if not same or not layer.weights:
        raise ValueError(
            "The layers of a group must have the same class, config and shapes, and weights. "
            f"Received: {pattern!r}, which means {layer.name!r} ({described(layer)}) and "
            f"{other.name!r} ({described(other)})"
        )


def _config(layer: keras.layers.Layer) -> Any:
    """Returns a layer's config without names and the seeds that initializers draw."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key not in ("name", "seed")}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    return plain(layer.get_config())
