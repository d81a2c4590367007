"""ChannelGraph: which channels of a model stand or fall together, followed through its layers."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as of_keras

from modreduce_keras.keras_internals import Call, calls_in_order, operation_of
from modreduce_keras.models.choosing import is_plain
from modreduce_keras.models.integer_layers import ACTIVATION_FUNCTIONS, function_of

DEPTHWISE = (of_keras.DepthwiseConv1D, of_keras.DepthwiseConv2D)
_PRODUCERS = (
    *(of_keras.Conv1D, of_keras.Conv2D, of_keras.Conv3D, of_keras.Dense),
    *(of_keras.Conv1DTranspose, of_keras.Conv2DTranspose, of_keras.Conv3DTranspose),
    *(of_keras.SeparableConv1D, of_keras.SeparableConv2D),
)
_ELEMENTWISE = (
    *(of_keras.Add, of_keras.Average, of_keras.Maximum, of_keras.Minimum),
    *(of_keras.Multiply, of_keras.Subtract),
)
_SAME = (
    *(of_keras.Activation, of_keras.ELU, of_keras.Identity, of_keras.LeakyReLU, of_keras.ReLU),
    *(of_keras.AveragePooling1D, of_keras.AveragePooling2D, of_keras.AveragePooling3D),
    *(of_keras.MaxPooling1D, of_keras.MaxPooling2D, of_keras.MaxPooling3D),
    *(of_keras.GlobalAveragePooling1D, of_keras.GlobalAveragePooling2D),
    *(of_keras.GlobalAveragePooling3D, of_keras.GlobalMaxPooling1D),
    *(of_keras.GlobalMaxPooling2D, of_keras.GlobalMaxPooling3D),
    *(of_keras.Cropping1D, of_keras.Cropping2D, of_keras.Cropping3D),
    *(of_keras.ZeroPadding1D, of_keras.ZeroPadding2D, of_keras.ZeroPadding3D),
    *(of_keras.UpSampling1D, of_keras.UpSampling2D, of_keras.UpSampling3D),
    *(of_keras.Dropout, of_keras.GaussianDropout, of_keras.GaussianNoise),
    *(of_keras.SpatialDropout1D, of_keras.SpatialDropout2D, of_keras.SpatialDropout3D),
    of_keras.ActivityRegularization,
)
_ELEMENTWISE_FUNCTIONS = ("Add", "Multiply", "Subtract")
_ELEMENTWISE_ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
    *("hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu"),
    *("sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
    *("squareplus", "tanh", "tanh_shrink", "threshold"),
)
"""Of `keras.activations`; the others, such as softmax, mix channels."""


class ChannelGraph:
    """The channels of a functional model; each has a number, and tied ones have one root.

    The channels of a tensor are its last axis. Convolutions and dense layers make new ones;
    additions tie those of their inputs; other layers pass them on. Those of the model's inputs
    and outputs are fixed, and those before a softmax or an activation that is not known.

    Args:
        model: A functional model without others in it.

    Attributes:
        calls: The calls of its operations, in their order.
        producers: The layers that make channels, by their `id`.
        inputs: The channels of what a layer is given, by its `id`.
        outputs: The channels of what it gives, by its `id`.

    Raises:
        ValueError: If the channels cannot be followed through a layer; the message names it.
    """

    def __init__(self, model: keras.Model) -> None:
        self.calls = calls_in_order(model)
        self.producers: dict[int, keras.layers.Layer] = {}
        self.inputs: dict[int, np.ndarray] = {}
        self.outputs: dict[int, np.ndarray] = {}
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._of: dict[int, np.ndarray] = {}
        self._from_inputs: set[int] = set()
        for tensor in model.inputs:
            self._of[id(tensor)] = self._new(tensor.shape[-1] if len(tensor.shape) > 1 else 1)
            self._fixed |= set(self._of[id(tensor)].tolist())
            self._from_inputs.add(id(tensor))
            self.outputs[id(operation_of(tensor))] = self._of[id(tensor)]
        for call in self.calls:
            self._follow(call)
        for tensor in model.outputs:
            self._fixed |= set(self._of[id(tensor)].tolist())

    @property
    def roots(self) -> np.ndarray:
        """The root of each channel, (channels,)."""
        return np.array([self._root(one) for one in range(len(self._parents))], int)

    @property
    def fixed(self) -> np.ndarray:
        """Whether the root of that number cannot be left out, (channels,)."""
        fixed = np.zeros(len(self._parents), bool)
        fixed[[self._root(one) for one in self._fixed]] = True
        return fixed

    def _new(self, number: int | None) -> np.ndarray:
        first = len(self._parents)
        self._parents += range(first, first + (number or 0))
        return np.arange(first, len(self._parents))

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def _tie(self, one: np.ndarray, other: np.ndarray) -> None:
        for first, second in zip(one.tolist(), other.tolist(), strict=True):
            self._parents[self._root(second)] = self._root(first)

    def _follow(self, call: Call) -> None:
        layer = call.operation
        given = [self._of[id(tensor)] for tensor in call.inputs]
        if all(id(tensor) in self._from_inputs for tensor in call.inputs) and not is_producer(
            layer
        ):
            # Nothing before it can be left out, whatever it does.
            made = [self._new(one.shape[-1] if len(one.shape) > 1 else 1) for one in call.outputs]
            for tensor, one in zip(call.outputs, made, strict=True):
                self._fixed |= set(one.tolist())
                self._from_inputs.add(id(tensor))
                self._of[id(tensor)] = one
            self.inputs[id(layer)], self.outputs[id(layer)] = given[0], made[0]
            return
        channels = self._rule(layer)(layer, call, given)
        if not _is_elementwise(getattr(layer, "activation", None)):
            # With fewer channels, a softmax would give the others larger shares.
            self._fixed |= set(channels.tolist())
        if id(layer) in self.inputs:
            self._tie(self.inputs[id(layer)], given[0])
            self._tie(self.outputs[id(layer)], channels)
        else:
            self.inputs[id(layer)], self.outputs[id(layer)] = given[0], channels
        for tensor in call.outputs:
            self._of[id(tensor)] = channels

    def _rule(self, layer: keras.Operation) -> Callable[..., np.ndarray]:
        kind, function = type(layer), function_of(layer)
        if getattr(layer, "data_format", "channels_last") == "channels_first":
            raise cannot_follow(layer, "whose channels are not the last axis")
        if is_producer(layer):
            return self._produced
        if kind in DEPTHWISE:
            return lambda layer, call, given: np.repeat(given[0], layer.depth_multiplier)
        if kind in _ELEMENTWISE or function in _ELEMENTWISE_FUNCTIONS:
            return self._tied
        rules = {
            of_keras.BatchNormalization: self._normalized,
            of_keras.Concatenate: self._joined,
            of_keras.Flatten: self._reshaped,
            of_keras.Reshape: self._reshaped,
            of_keras.Softmax: self._normalized,
        }
        if kind in rules:
            return rules[kind]
        if kind in _SAME or function in ACTIVATION_FUNCTIONS:
            return lambda layer, call, given: given[0]
        raise cannot_follow(layer)

    def _produced(self, layer: Any, call: Call, given: list[np.ndarray]) -> np.ndarray:
        if getattr(layer, "groups", 1) != 1:
            raise cannot_follow(layer, f"with groups={layer.groups}")
        if id(layer) in self.outputs:
            return self.outputs[id(layer)]
        self.producers[id(layer)] = layer
        return self._new(call.outputs[0].shape[-1])

    def _tied(self, layer: Any, call: Call, given: list[np.ndarray]) -> np.ndarray:
        widest = max(given, key=len)
        for one in given:
            if len(one) > 1 or len(widest) == 1:
                self._tie(widest, one)
        return widest

    def _normalized(self, layer: Any, call: Call, given: list[np.ndarray]) -> np.ndarray:
        if layer.axis not in (-1, len(call.outputs[0].shape) - 1):
            raise cannot_follow(layer, f"along the axis {layer.axis}, not the last one")
        if type(layer) is of_keras.Softmax:
            self._fixed |= set(given[0].tolist())
        return given[0]

    def _joined(self, layer: Any, call: Call, given: list[np.ndarray]) -> np.ndarray:
        if layer.axis in (-1, len(call.outputs[0].shape) - 1):
            return np.concatenate(given)
        return self._tied(layer, call, given)

    def _reshaped(self, layer: Any, call: Call, given: list[np.ndarray]) -> np.ndarray:
        before, after = call.inputs[0].shape, call.outputs[0].shape
        if after[-1] == before[-1]:
            return given[0]
        if None in before[1:] or after[-1] != math.prod(before[1:]):
            raise cannot_follow(layer, f"from {before} to {after}, which mixes channels")
        return np.tile(given[0], math.prod(before[1:-1]))


def _is_elementwise(activation: Any) -> bool:
    """Returns whether an activation is known to take each number by itself."""
    if activation is None or type(activation) in (of_keras.ELU, of_keras.LeakyReLU, of_keras.ReLU):
        return True
    places = (keras.activations, keras.ops)
    known = [getattr(one, name, None) for one in places for name in _ELEMENTWISE_ACTIVATIONS]
    return any(activation is one for one in known)


def is_producer(layer: keras.Operation) -> bool:
    """Returns whether a layer makes channels of its own."""
    return type(layer) in _PRODUCERS and is_plain(layer)


def cannot_follow(layer: keras.Operation, why: str = "") -> ValueError:
    """Returns the error that channels are lost in a layer."""
    return ValueError(
        "model must have layers through which channels can be followed: convolutions and dense "
        "layers, batch normalizations, activations, poolings, and sums, products and joins of "
        f"these. Received: the layer {layer.name!r} of type {type(layer).__name__}"
        f"{', ' * bool(why)}{why}"
    )


def tied_producers(
    graph: ChannelGraph, roots: np.ndarray
) -> list[tuple[list[keras.layers.Layer], np.ndarray]]:
    """Returns the layers whose channels are tied to one another, and the roots of these.

    Args:
        graph: Of a model.
        roots: Of its channels.
    """
    groups: list[tuple[list[keras.layers.Layer], set[int]]] = []
    for key, layer in graph.producers.items():
        own = set(roots[graph.outputs[key]].tolist())
        members = [layer]
        for group in [one for one in groups if one[1] & own]:
            groups.remove(group)
            members, own = [*group[0], *members], own | group[1]
        groups.append((members, own))
    return [(members, np.array(sorted(own), int)) for members, own in groups]
