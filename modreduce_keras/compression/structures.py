"""Structures: which weights of a kernel go together, and which of them have the smallest scores."""

from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.models.kernels import input_axes, kernel_of

UNSTRUCTURED, TWO_OF_FOUR, BLOCK = "unstructured", "2:4", "block"
STRUCTURES = (UNSTRUCTURED, TWO_OF_FOUR, BLOCK)
_GROUP, _KEPT_OF_GROUP = 4, 2
_BITS = 33
"""Of the distance of two int32."""


class Structure:
    """How the weights of one layer are pruned: each alone, two of four inputs, or in blocks.

    Args:
        kind: One of `STRUCTURES`.
        layer: A built layer with a kernel.
        block_size: Inputs and outputs of a block.

    Attributes:
        units: How many units there are to prune: weights or blocks.
        largest: The largest share of them that can be pruned.

    Raises:
        ValueError: If the kernel has no such structure.
    """

    def __init__(self, kind: str, layer: keras.layers.Layer, block_size: tuple[int, ...]) -> None:
        self._kind, self._block = kind, block_size
        self._shape = tuple(kernel_of(layer).shape)
        inputs = input_axes(layer)
        outputs = tuple(axis for axis in range(len(self._shape)) if axis not in inputs)
        self._axes = (*inputs, *outputs)
        self._rows = int(np.prod([self._shape[axis] for axis in inputs]))
        self._columns = int(np.prod([self._shape[axis] for axis in outputs]))
        if kind == TWO_OF_FOUR and not fits_two_of_four(layer):
            raise ValueError(
                "structure='2:4' needs layers whose outputs each read a number of input channels "
                f"that is divisible by {_GROUP}: name others in layers=. Received: the layer "
                f"{layer.name!r} ({type(layer).__name__}) with a kernel of shape {self._shape}"
            )
        self.units = self._rows * self._columns
        if kind == BLOCK:
            self.units = int(np.prod(self._blocks))
        self.largest = 1.0 - _KEPT_OF_GROUP / _GROUP if kind == TWO_OF_FOUR else 1.0

    @property
    def _blocks(self) -> tuple[int, int]:
        """How many blocks there are along the inputs and along the outputs."""
        return -(-self._rows // self._block[0]), -(-self._columns // self._block[1])

    def pruned_units(self, sparsity: Any) -> Any:
        """Returns how many units are zero at a sparsity, int32: its share of them, rounded."""
        share = ops.clip(ops.cast(sparsity, "float64"), 0.0, self.largest)
        return ops.cast(ops.round(share * float(self.units)), "int32")

    def kept(self, scores: Any, sparsity: Any) -> Any:
        """Returns which weights stay, in the shape of the kernel.

        Args:
            scores: For each weight, in the shape of the kernel. The smallest ones are pruned.
            sparsity: Share of the units that are to be zero.
        """
        matrix = ops.reshape(ops.transpose(scores, self._axes), (self._rows, self._columns))
        pruned = self.pruned_units(sparsity)
        if self._kind == BLOCK:
            kept = self._of_blocks(matrix, pruned)
        else:
            if self._kind == TWO_OF_FOUR:
                matrix = _only_candidates(matrix)
            kept = ops.logical_not(_smallest(matrix, pruned))
        shape = [self._shape[axis] for axis in self._axes]
        back = [self._axes.index(axis) for axis in range(len(shape))]
        return ops.transpose(ops.reshape(kept, shape), back)

    def _of_blocks(self, matrix: Any, pruned: Any) -> Any:
        (height, width), (rows, columns) = self._block, self._blocks
        missing = [[0, rows * height - self._rows], [0, columns * width - self._columns]]

        def sums(values: Any) -> Any:
            padded = ops.reshape(ops.pad(values, missing), (rows, height, columns, width))
            return ops.sum(padded, axis=(1, 3))

        # Blocks at the edge may have fewer weights.
        means = sums(matrix) / sums(ops.ones_like(matrix))
        kept = ops.logical_not(_smallest(means, pruned))
        kept = ops.repeat(ops.repeat(kept, height, axis=0), width, axis=1)
        return kept[: self._rows, : self._columns]


def fits_two_of_four(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer's outputs sum over input channels in groups of four."""
    channels = kernel_of(layer).shape[input_axes(layer)[-1]]
    is_depthwise = isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D))
    return channels % _GROUP == 0 and not is_depthwise


def _only_candidates(matrix: Any) -> Any:
    """Returns scores that are infinite but for the smallest two of each four along the inputs."""
    rows, columns = matrix.shape
    groups = ops.reshape(matrix, (rows // _GROUP, _GROUP, columns))
    ranks = ops.argsort(ops.argsort(groups, axis=1), axis=1)
    groups = ops.where(ranks < _GROUP - _KEPT_OF_GROUP, groups, float("inf"))
    return ops.reshape(groups, (rows, columns))


def _smallest(scores: Any, number: Any) -> Any:
    """Returns which scores are the smallest ones, exactly as many as wanted; of equals the first.

    The largest of them is found by halving a range of integers, which takes a fifth of the time
    that sorting does.

    Args:
        scores: Any shape, float32.
        number: How many, an int32 scalar.
    """
    keys = _ordered_integers(ops.reshape(scores, (-1,)))
    low, high = (ops.cast(end(keys), "int64") for end in (ops.min, ops.max))
    low = low - 1
    for _ in range(_BITS):
        middle = (low + high) // 2
        is_enough = _count(keys <= ops.cast(middle, "int32")) > number
        low, high = ops.where(is_enough, low, middle), ops.where(is_enough, middle, high)
    limit = ops.cast(high, "int32")
    below, equal = keys < limit, keys == limit
    among = ops.logical_and(equal, ops.cumsum(ops.cast(equal, "int32")) <= number - _count(below))
    return ops.reshape(ops.logical_or(below, among), scores.shape)


def _ordered_integers(values: Any) -> Any:
    """Returns int32 in the order of some float32."""
    bits = ops.view(values + 0.0, "int32")  # -0 is 0 then
    return ops.where(bits >= 0, bits, ops.bitwise_xor(bits, 2**31 - 1))


def _count(flags: Any) -> Any:
    return ops.sum(ops.cast(flags, "int32"))
