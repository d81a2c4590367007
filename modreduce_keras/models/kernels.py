"""Kernels: which weight of a layer multiplies its inputs, and along which axes its outputs lie."""

import keras
import numpy as np

_KERNELS = {
    keras.layers.Conv1D: ("kernel", (-1,)),
    keras.layers.Conv2D: ("kernel", (-1,)),
    keras.layers.Conv3D: ("kernel", (-1,)),
    keras.layers.Conv1DTranspose: ("kernel", (-2,)),
    keras.layers.Conv2DTranspose: ("kernel", (-2,)),
    keras.layers.Conv3DTranspose: ("kernel", (-2,)),
    keras.layers.SeparableConv1D: ("pointwise_kernel", (-1,)),
    keras.layers.SeparableConv2D: ("pointwise_kernel", (-1,)),
    keras.layers.Dense: ("kernel", (-1,)),
    keras.layers.DepthwiseConv1D: ("kernel", (-2, -1)),
    keras.layers.DepthwiseConv2D: ("kernel", (-2, -1)),
}
"""By a layer's class: its kernel, and the axes of its outputs."""

LOW_RANK = "_low"
"""Ending of the name of the first one of the two layers that `low_rank` makes of one."""


def has_kernel(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer is one whose kernel is known here."""
    return type(layer) in _KERNELS


def kernel_of(layer: keras.layers.Layer) -> keras.Variable:
    """Returns the weight that a layer's inputs are multiplied by, the last one of several."""
    return getattr(layer, _KERNELS[type(layer)][0])


def input_axes(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Returns the axes of a layer's kernel along which one output sums."""
    rank = len(kernel_of(layer).shape)
    outputs = {axis % rank for axis in _KERNELS[type(layer)][1]}
    return tuple(axis for axis in range(rank) if axis not in outputs)


def shape_along_outputs(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Returns the shape in which one number for each output broadcasts to a layer's kernel."""
    inputs = input_axes(layer)
    return tuple(1 if axis in inputs else n for axis, n in enumerate(kernel_of(layer).shape))


def along_outputs(layer: keras.layers.Layer, values: np.ndarray) -> np.ndarray:
    """Returns one number for each output of a layer, in a shape that broadcasts to its kernel."""
    return values.reshape(shape_along_outputs(layer))
