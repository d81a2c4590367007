"""Channel pruning: builds a smaller plain model from the most important channels."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import require_choice, require_number
from modreduce_keras.compression.channel_graph import (
    DEPTHWISE,
    ChannelGraph,
    is_producer,
    tied_producers,
)
from modreduce_keras.compression.slicing import (
    multiply_adds_of,
    output_norms,
    sliced_config,
    sliced_weights,
)
from modreduce_keras.copying import copy_state
from modreduce_keras.models.choosing import chosen, require_plain
from modreduce_keras.models.clones import draws_kept, rebuilt, unfrozen
from modreduce_keras.models.graph import new_inputs
from modreduce_keras.models.integer_layers import is_constant
from modreduce_keras.models.unnesting import unnested

KERNEL, SCALE = "kernel", "scale"
SCORES = (KERNEL, SCALE)
_HALVINGS = 40


def prune_channels(
    model: keras.Model,
    keep: float | None = None,
    *,
    multiply_adds: float | None = None,
    score: str = "kernel",
    layers: Any = None,
) -> keras.Model:
    """Builds a smaller plain model without the least important channels of a model.

    A channel is removed with everything that belongs to it: the output of a convolution or dense
    layer, its bias and normalization, its depthwise filter, and the corresponding input of the
    next layers. Channels that are added or multiplied, as in residual blocks, are tied and removed
    together. Of each group of tied layers, the `round(keep · channels)` channels with the highest
    scores remain, at least one. The result computes the same as the given model with the other
    channels set to zero.

    Train the result further with the model as its teacher. You can also prune a teacher to get a
    narrower student with the teacher's weights. All layers of the result are trainable, also those
    that are frozen in the model.

    Args:
        model: A functional or a built Sequential model of convolutions, dense layers, batch
            normalizations, activations, poolings, flattening, and sums, products and joins of
            their results, with channels on the last axis; such as those of `mr.models`, and
            MobileNet and ResNet of `keras.applications`. Others in it may be nested; the result
            has their layers instead, named `"inner_conv"` where names are equal. Outputs keep all
            of their channels, and so does what a softmax reads, or an activation that is not an
            elementwise one of Keras.
        keep: Share of the channels that remain, above 0 and at most 1.
        multiply_adds: Instead of `keep`: the largest share of the model's multiply-adds that may
            remain. The largest possible `keep` is used.
        score: `"kernel"`, the default: the sum of absolute weights of the channel's filter,
            divided by their mean over the filters of the layer. `"scale"`: the absolute
            scale of the normalizations that read it. Tied layers add theirs.
        layers: The layers of which channels may be left out: a list of names, patterns and
            classes. Tied ones have to be in it as well, and depthwise convolutions, which have no
            channels of their own, cannot be. Defaults to all.

    Returns:
        A functional model with layers of the same names, which is loaded without this library.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If it has a layer through which channels cannot be followed, which the message
            names; if it is pruned, clustered or quantization-aware; if nothing can be left out; or
            if an argument is out of range.

    Example:
        >>> import modreduce_keras as mr
        >>> teacher = mr.models.get("resnet8", num_classes=10)
        >>> student = mr.prune_channels(teacher, 0.5)
        >>> teacher.count_params(), student.count_params()
        (78714, 20290)
        >>> half = mr.prune_channels(teacher, multiply_adds=0.5)
        >>> mr.evaluation.multiply_adds(half) <= 0.5 * mr.evaluation.multiply_adds(teacher)
        True

    Reference:
        Li et al., Pruning Filters for Efficient ConvNets, 2017 (`"kernel"`, without the division
        by the mean, which ties need); Liu et al., Learning Efficient Convolutional Networks
        through Network Slimming, 2017 (`"scale"`; there one threshold serves all layers).
    """
    require_plain(model, "model")
    require_choice("score", score, SCORES)
    _require_one_share(keep, multiply_adds)
    flat, found = unnested(model, lambda copy: chosen(copy, layers, "model"))
    plan = _Plan(flat, score, layers, found)
    share = plan.share_for(multiply_adds) if multiply_adds is not None else float(keep or 0.0)
    return _rebuilt(flat, plan, plan.kept(share))


class _Plan:
    """What can be left out of a model, and in which order.

    Args:
        model: A functional model without others in it.
        score: One of `SCORES`.
        layers: Which layers may lose channels, or `None`.
        found: These layers, where they are known.
    """

    def __init__(
        self,
        model: keras.Model,
        score: str,
        layers: Any,
        found: list[keras.layers.Layer] | None = None,
    ) -> None:
        self.graph = ChannelGraph(model)
        self.roots = self.graph.roots
        fixed = self.graph.fixed
        found = chosen(model, layers, "model") if found is None else found
        _require_producers(found)
        tied = tied_producers(self.graph, self.roots)
        tied = [(members, own[~fixed[own]]) for members, own in tied if not fixed[own].all()]
        for members, _ in tied:
            _require_all_or_none(members, found, layers)
        allowed = {id(layer) for layer in found}
        self.groups = [own for members, own in tied if id(members[0]) in allowed]
        if not self.groups:
            raise ValueError(
                "model must have channels that can be removed. Channels of its outputs, before a "
                "softmax or an unknown activation, and of layers that are not in layers= are kept. "
                f"Received: {model.name!r}, {layers=}"
            )
        self.scores = self._scores(score)

    def _scores(self, score: str) -> np.ndarray:
        """Returns the score of each root."""
        scores = np.zeros(len(self.roots))
        if score == KERNEL:
            for key, layer in self.graph.producers.items():
                norms = output_norms(layer)
                mean = norms.mean()
                channels = self.roots[self.graph.outputs[key]]
                np.add.at(scores, channels, norms / (mean if mean > 0.0 else 1.0))
            return scores
        known = np.zeros(len(self.roots), bool)
        for layer in self._operations():
            if type(layer) is keras.layers.BatchNormalization and layer.scale:
                channels = self.roots[self.graph.outputs[id(layer)]]
                np.add.at(scores, channels, np.abs(ops.convert_to_numpy(layer.gamma)))
                known[channels] = True
        for own in self.groups:
            if not known[own].all():
                names = [
                    layer.name
                    for key, layer in self.graph.producers.items()
                    if set(self.roots[self.graph.outputs[key]]) & set(own[~known[own]])
                ]
                raise ValueError(
                    "score='scale' needs a batch normalization with scales after each layer that "
                    "loses channels: take score='kernel', or name others in layers=. Received: "
                    f"{names}"
                )
        return scores

    def _operations(self) -> list[keras.Operation]:
        return list({id(call.operation): call.operation for call in self.graph.calls}.values())

    def kept(self, share: float) -> np.ndarray:
        """Returns which channels stay, where a share of each group does, (channels,), bool."""
        stays = np.ones(len(self.roots), bool)
        for own in self.groups:
            number = max(1, round(share * len(own)))
            order = own[np.argsort(-self.scores[own], kind="stable")]
            stays[order[number:]] = False
        return stays[self.roots]

    def multiply_adds(self, kept: np.ndarray) -> int:
        """Returns the multiply-adds of the model with some of its channels."""
        total = 0
        for call in self.graph.calls:
            layer = call.operation
            if not (is_producer(layer) or type(layer) in DEPTHWISE):
                continue
            is_transposed = "Transpose" in type(layer).__name__
            sizes = (call.inputs if is_transposed else call.outputs)[0].shape[1:-1]
            if None in sizes:
                raise ValueError(
                    "multiply_adds= needs inputs of a known size: take keep=. Received: layer "
                    f"{layer.name!r} with an output of shape {call.outputs[0].shape}"
                )
            given, made = self.of(layer, kept)
            total += multiply_adds_of(layer, math.prod(sizes), given.sum(), made.sum())
        return int(total)

    def of(self, layer: keras.Operation, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which of a layer's input and output channels stay."""
        return kept[self.graph.inputs[id(layer)]], kept[self.graph.outputs[id(layer)]]

    def share_for(self, part: float) -> float:
        """Returns the largest share of channels with at most a part of the multiply-adds."""
        limit = part * self.multiply_adds(self.kept(1.0))
        low, high = 0.0, 1.0
        least = self.multiply_adds(self.kept(low))
        if least > limit:
            whole = self.multiply_adds(self.kept(1.0))
            raise ValueError(
                "multiply_adds must be a share that the model can have: with one channel in each "
                f"layer it has {least / whole:.4f} of them. Received: multiply_adds={part}"
            )
        if self.multiply_adds(self.kept(high)) <= limit:
            return high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.multiply_adds(self.kept(middle)) <= limit:
                low = middle
            else:
                high = middle
        return low


def _require_producers(layers: list[keras.layers.Layer]) -> None:
    """Raises if a layer that is named has no channels of its own."""
    for layer in layers:
        if not is_producer(layer):
            raise ValueError(
                "layers must match convolutions and dense layers, which have their own channels: a "
                "depthwise one has those of the layer before it, so name that. Received: "
                f"{layer.name!r} of type {type(layer).__name__}"
            )


def _require_all_or_none(
    members: list[keras.layers.Layer], named: list[keras.layers.Layer], layers: Any
) -> None:
    """Raises if some layers of tied channels are named, and others are not."""
    names, missing = [
        [one.name for one in members if any(one is other for other in named) == is_named]
        for is_named in (True, False)
    ]
    if names and missing:
        raise ValueError(
            "layers must have all layers whose channels are tied, as those that are added are. "
            f"Received: {layers=}, with {names} and without {missing}, which are tied to them"
        )


def _rebuilt(model: keras.Model, plan: _Plan, kept: np.ndarray) -> keras.Model:
    """Builds the model of the channels that stay."""
    made: dict[int, tuple[keras.layers.Layer, keras.layers.Layer]] = {}

    def rebuild(layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, keras.layers.InputLayer):
            return rebuilt(layer)
        _, stay = plan.of(layer, kept)
        new = rebuilt(layer, sliced_config(layer, int(stay.sum())))
        if isinstance(layer, keras.layers.Layer):
            made[id(layer)] = layer, new
        return new

    def call(layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        _require_scalars(layer, args)
        return layer(*args, **kwargs)

    with draws_kept():
        copy = keras.models.clone_model(
            model, new_inputs(model), clone_function=rebuild, call_function=call
        )
    for layer, new in made.values():
        given, stay = plan.of(layer, kept)
        if given.all() and stay.all():
            copy_state(layer, new)
        elif layer.weights:
            new.set_weights(sliced_weights(layer, given, stay))
    return unfrozen(copy)


def _require_scalars(layer: keras.Operation, args: Any) -> None:
    """Raises if a function is given numbers of its own for each channel."""
    if isinstance(layer, keras.layers.Layer):
        return
    for one in keras.tree.flatten(args):
        if is_constant(one) and np.ndim(one) > 0:
            raise ValueError(
                "model must have no constants for each channel: make them a layer. Received: "
                f"{layer.name!r} ({type(layer).__name__}) with one of shape {np.shape(one)}"
            )


def _require_one_share(keep: Any, multiply_adds: Any) -> None:
    given = {"keep": keep, "multiply_adds": multiply_adds}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ValueError(
            "Give one of keep=, the share of the channels, and multiply_adds=, the share of the "
            f"multiply-adds, that are left. Received: {keep=}, {multiply_adds=}"
        )
    for name, value in named.items():
        if require_number(name, value, above=0.0) > 1.0:
            raise ValueError(f"{name} must be at most 1. Received: {name}={value!r}")
