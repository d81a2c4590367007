"""Integer normalizations: layer normalization and its like by layers that int8 files compute."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from modreduce_keras.keras_internals import layers_of_convnext
from modreduce_keras.models.gain import Gain
from modreduce_keras.models.splitting import Part
from modreduce_keras.typing import Shape

_MOST_SUMMED = 2**15
"""Numbers whose squares, of 8 bits and a sign, an accumulator of 32 bits holds the sum of."""
_TINY = 1e-12
"""The least sum of squares, so that its inverse root is finite."""

NORMALIZATIONS = (
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)
"""Layers that are rebuilt here."""


@keras.saving.register_keras_serializable(package="modreduce_keras")
class SumOfSquares(keras.layers.Layer):
    """Sums squares along the last axis, as a matrix product of one row and one column.

    Integers have 32 bits there: of squares in 8 bits only the largest would be left.

    Call arguments:
        inputs: (batch, ..., size), of known sizes.

    Returns:
        (batch, ..., 1).
    """

    def call(self, inputs: Any) -> Any:
        """Returns the sums."""
        size = inputs.shape[-1]
        rows, columns = (ops.reshape(inputs, shape) for shape in ((-1, 1, size), (-1, size, 1)))
        return ops.reshape(ops.matmul(rows, columns), (-1, *inputs.shape[1:-1], 1))

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Returns the shape of the sums."""
        return (*input_shape[:-1], 1)


@keras.saving.register_keras_serializable(package="modreduce_keras")
class InverseRoot(keras.layers.Layer):
    """Computes 1 / sqrt(max(x, 1e-12)), since rounding can leave an x of 0.

    Call arguments:
        inputs: Any shape, 0 or above.

    Returns:
        The same shape.
    """

    def call(self, inputs: Any) -> Any:
        """Returns the inverse roots."""
        return ops.rsqrt(ops.maximum(inputs, _TINY))

    def plain(self, inputs: Any) -> Any:
        """Returns what a file computes, whose kernel gives the largest root for 0."""
        return ops.rsqrt(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        """Returns the shape of the inputs."""
        return input_shape


def normalization_part(layer: keras.layers.Layer) -> tuple[Part, Callable[[], None]] | None:
    """Returns what stands for a normalization, and what sets its state once it is built.

        c = x - mean(x),  y = c (1 / sqrt(sum c² + n ε)) (sqrt(n) γ) + β

    with a rounding after each step in an int8 file. RMS and unit normalizations have no mean; a
    group normalization does that to the channels of a group in one row.

    Args:
        layer: Of `NORMALIZATIONS`.

    Returns:
        Two functions, or `None` if it does not normalize the last axis, whose size is known.
    """
    shape = layer.output.shape
    if len(shape) < 2 or None in shape[1:] or not _is_along_the_last(layer, len(shape)):
        return None
    size = shape[-1]
    if isinstance(layer, layers.GroupNormalization):
        size = math.prod(shape[1:]) // layer.groups
    if size > _MOST_SUMMED:
        return None
    is_unit = isinstance(layer, layers.UnitNormalization)
    has_mean = isinstance(layer, (layers.LayerNormalization, layers.GroupNormalization))
    core = _Core(layer, 0.0 if is_unit else size * layer.epsilon, has_mean=has_mean)
    if is_unit:
        return core, lambda: None
    gain, give_state = gain_of(layer, math.sqrt(size))
    if isinstance(layer, layers.GroupNormalization):
        return _in_groups(core, gain, layer.groups), give_state
    return lambda inputs, **_: gain(core(inputs)), give_state


def gain_of(layer: keras.layers.Layer, factor: float) -> tuple[Gain, Callable[[], None]]:
    """Returns a layer that multiplies and adds as another one does, and what sets its state.

    Args:
        layer: One with `gamma` and `beta`, or one of both; or with `scale`.
        factor: A number that all channels are multiplied by as well.
    """
    names = [f"{of}_{kind}" for of in ("gamma", "beta") for kind in ("regularizer", "constraint")]
    scale = layer.scale if isinstance(layer, layers.RMSNormalization) else layer.gamma
    offset = getattr(layer, "beta", None)
    gain = Gain(
        factor,
        scale=scale is not None,
        center=offset is not None,
        **{name: getattr(layer, name, None) for name in names},
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )
    values = [ops.convert_to_numpy(one) for one in (scale, offset) if one is not None]
    return gain, lambda: gain.set_weights(values)


def is_layer_scale(layer: keras.Operation) -> bool:
    """Returns whether a layer multiplies each channel by a weight, as in ConvNeXt."""
    return type(layer) is layers_of_convnext().scale


class _Core:
    """A normalization without its weights, along the last axis.

    Args:
        layer: The layer that it is of.
        epsilon: What is added to the sum of squares.
        has_mean: Whether the mean is subtracted.
    """

    def __init__(self, layer: keras.layers.Layer, epsilon: float, *, has_mean: bool) -> None:
        name = layer.name
        self._epsilon, self._has_mean = epsilon, has_mean
        self._sum = SumOfSquares(name=f"{name}_squares", dtype="float32")
        self._root = InverseRoot(name=f"{name}_root", dtype="float32")
        is_last = isinstance(layer, layers.UnitNormalization)
        name = name if is_last else f"{name}_normalized"
        self._product = layers.Multiply(name=name, dtype=layer.dtype_policy)

    def __call__(self, inputs: Any, **_: Any) -> Any:
        if self._has_mean:
            inputs = inputs - ops.mean(inputs, axis=-1, keepdims=True)
        squares = self._sum(inputs)
        if self._epsilon:
            squares = squares + self._epsilon
        return self._product([inputs, self._root(squares)])


def _in_groups(core: _Core, gain: Gain, groups: int) -> Part:
    def part(inputs: Any, **_: Any) -> Any:
        sizes, channels = inputs.shape[1:-1], inputs.shape[-1]
        places, several = math.prod(sizes), channels // groups
        rows = ops.reshape(inputs, (-1, places, groups, several))
        rows = ops.reshape(ops.transpose(rows, (0, 2, 1, 3)), (-1, groups, places * several))
        rows = ops.reshape(core(rows), (-1, groups, places, several))
        return gain(ops.reshape(ops.transpose(rows, (0, 2, 1, 3)), (-1, *sizes, channels)))

    return part


def _is_along_the_last(layer: keras.layers.Layer, rank: int) -> bool:
    axis = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    is_centred = not getattr(layer, "rms_scaling", False)
    return [one % rank for one in axis] == [rank - 1] and is_centred
