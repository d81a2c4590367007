"""Slicing: a layer with some of its input and output channels, and the weights of these."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as of_keras
from keras import ops

from modreduce_keras.compression.channel_graph import DEPTHWISE
from modreduce_keras.models.kernels import kernel_of

_TRANSPOSED = (*(of_keras.Conv1DTranspose, of_keras.Conv2DTranspose, of_keras.Conv3DTranspose),)
_SEPARABLE = (of_keras.SeparableConv1D, of_keras.SeparableConv2D)


def sliced_config(layer: keras.Operation, kept: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns the change of a layer's config that leaves a number of output channels."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        for name in ("filters", "units"):
            if name in config and type(layer) not in DEPTHWISE:
                config = {**config, name: kept}
        if type(layer) is of_keras.Reshape and config["target_shape"][-1] != -1:
            config = {**config, "target_shape": (*config["target_shape"][:-1], kept)}
        return config

    return change


def sliced_weights(
    layer: keras.layers.Layer, inputs: np.ndarray, outputs: np.ndarray
) -> list[np.ndarray]:
    """Returns the weights of a layer for some of its channels.

    Args:
        layer: A convolution, a dense layer or a batch normalization.
        inputs: Which input channels stay, (channels,), bool.
        outputs: Which output channels stay, (channels,), bool.
    """
    weights = []
    for variable in layer.weights:
        value = ops.convert_to_numpy(variable)
        if len(value.shape) == 1:
            value = value[outputs]
        elif type(layer) in DEPTHWISE:
            value = value[..., inputs, :]
        elif type(layer) in _TRANSPOSED:
            value = value[..., outputs, :][..., inputs]
        elif type(layer) in _SEPARABLE and variable is not kernel_of(layer):
            value = value[..., inputs, :]
        elif type(layer) in _SEPARABLE:
            value = value[..., np.repeat(inputs, layer.depth_multiplier), :][..., outputs]
        else:
            value = value[..., inputs, :][..., outputs]
        weights.append(value)
    return weights


def output_norms(layer: keras.layers.Layer) -> np.ndarray:
    """Returns the sum of absolute weights of each output of a layer, (channels,), float64."""
    kernel = np.abs(np.asarray(ops.convert_to_numpy(kernel_of(layer)), "float64"))
    axis = -2 if type(layer) in _TRANSPOSED else -1
    others = tuple(i for i in range(kernel.ndim) if i != axis % kernel.ndim)
    return kernel.sum(axis=others)


def multiply_adds_of(layer: keras.layers.Layer, positions: int, inputs: int, outputs: int) -> int:
    """Returns the multiply-adds of a layer with some of its channels, for one sample.

    Args:
        layer: A convolution or a dense layer.
        positions: Of the output; for a transposed convolution of the input.
        inputs: Number of input channels.
        outputs: Number of output channels.
    """
    window = int(np.prod(getattr(layer, "kernel_size", (1,))))
    if type(layer) in DEPTHWISE:
        return positions * window * outputs
    if type(layer) in _SEPARABLE:
        inner = inputs * layer.depth_multiplier
        return positions * (window * inner + inner * outputs)
    return positions * window * inputs * outputs
