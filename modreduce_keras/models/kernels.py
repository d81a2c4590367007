"""Kernels: which weight of a layer multiplies its inputs, and along which axes its outputs lie."""

import keras
import numpy as np

_KERNELS = {
    "Conv1D": ("kernel", (-1,)),
    "Conv2D": ("kernel", (-1,)),
    "Conv3D": ("kernel", (-1,)),
    "Conv1DTranspose": ("kernel", (-2,)),
    "Conv2DTranspose": ("kernel", (-2,)),
    "Conv3DTranspose": ("kernel", (-2,)),
    "SeparableConv1D": ("pointwise_kernel", (-1,)),
    "SeparableConv2D": ("pointwise_kernel", (-1,)),
    "Dense": ("kernel", (-1,)),
    "DepthwiseConv1D": ("kernel", (-2, -1)),
    "DepthwiseConv2D": ("kernel", (-2, -1)),
}
"""By the name of a layer's class: its kernel, and the axes of its outputs."""


def has_kernel(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer is one whose kernel is known here."""
    return type(layer).__name__ in _KERNELS


def kernel_of(layer: keras.layers.Layer) -> keras.Variable:
    """Returns the weight that a layer's inputs are multiplied by, the last one of several."""
    return getattr(layer, _KERNELS[type(layer).__name__][0])


def input_axes(layer: keras.layers.Layer) -> tuple[int, ...]:
    """Returns the axes of a layer's kernel along which one output sums."""
    rank = len(kernel_of(layer).shape)
    outputs = {axis % rank for axis in _KERNELS[type(layer).__name__][1]}
    return tuple(axis for axis in range(rank) if axis not in outputs)


def along_outputs(layer: keras.layers.Layer, values: np.ndarray) -> np.ndarray:
    """Returns one number for each output of a layer, in a shape that broadcasts to its kernel."""
    shape = list(kernel_of(layer).shape)
    for axis in input_axes(layer):
        shape[axis] = 1
    return values.reshape(shape)
