"""Signs: whether what a layer gives is known to have no negative numbers, by the structure."""

from typing import Any

import keras

from modreduce_keras.models.head_kinds import PASSES_ON, WITH_ACTIVATION
from modreduce_keras.models.kernel_wrapper import plain_layer
from modreduce_keras.models.structure import INPUT, Node

_NONNEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential")
"""Activations without negative results."""
_FUNCTIONS = ("Relu", "Relu6", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Absolute")
"""The same of `keras.ops`, by their classes."""
_KEEPS = ("Pooling1D", "Pooling2D", "Pooling3D", "Padding1D", "Padding2D", "Padding3D")
"""Endings of the names of Keras' layers whose results have no sign that their inputs lack."""
_MERGES = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply")


def is_nonnegative(
    nodes: list[Node], layer: keras.layers.Layer, call: int | None, source: int | None = None
) -> bool:
    """Returns whether a feature is known to have no negative numbers, such as that of a ReLU.

    Args:
        nodes: What runs in a model.
        layer: A layer in it.
        call: Which of its calls; `None` where it runs once.
        source: Which of its inputs the feature is. Defaults to `None`: it is its output.

    Returns:
        `False` where it may be negative, or nothing is known.
    """
    for index, node in enumerate(nodes):
        if node.operation is layer and node.call == call:
            return _is_nonnegative(nodes, index if source is None else node.sources[source])
    return False


def _is_nonnegative(nodes: list[Node], index: int) -> bool:
    """Follows the operations that keep signs back to those that set them."""
    waiting, seen = [index], {INPUT}
    while waiting:
        index = waiting.pop()
        if index == INPUT:
            return False
        if index in seen:
            continue
        seen.add(index)
        node = nodes[index]
        operation = plain_layer(node.operation)
        if _sets_sign(operation):
            continue
        if not _keeps_sign(operation, len(node.sources)):
            return False
        waiting += node.sources
    return True


def _sets_sign(operation: Any) -> bool:
    kind = type(operation)
    if kind is keras.layers.ReLU:
        return not operation.negative_slope
    if kind is keras.layers.Softmax:
        return True
    if kind in WITH_ACTIVATION or kind is keras.layers.Activation:
        activation = operation.activation
        return any(activation is getattr(keras.activations, name) for name in _NONNEGATIVE)
    return _is_of_keras(kind) and kind.__name__ in _FUNCTIONS


def _keeps_sign(operation: Any, sources: int) -> bool:
    kind = type(operation)
    if _is_of_keras(kind) and kind.__name__.endswith(_MERGES):
        return sources > 1  # another term of one alone is a number, which may be negative
    if kind is keras.layers.UpSampling2D:
        return operation.interpolation in ("nearest", "bilinear")  # others overshoot
    keeps = _is_of_keras(kind) and kind.__name__.endswith(_KEEPS)
    return sources > 0 and (keeps or kind in PASSES_ON)


def _is_of_keras(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "keras"
