"""Affine: one multiplication and one addition for each channel, and the layers that are no more."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from modreduce_keras.models.gain import Gain
from modreduce_keras.typing import Shape


@keras.saving.register_keras_serializable(package="modreduce_keras")
class Affine(keras.layers.Layer):
    """Multiplies by a constant for each channel and adds another: a folded normalization.

    Args:
        axis: Axis of the channels.
        is_convolution: Whether it runs as a 1×1 convolution of each channel, which is one
            operation, as integers need it. The channels are then the last axis.
        **kwargs: `name` and `dtype`, as for every Keras layer.

    Call arguments:
        inputs: (batch, ..., channels, ...).

    Returns:
        The same shape.
    """

    def __init__(self, axis: int = -1, *, is_convolution: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.is_convolution = is_convolution

    def build(self, input_shape: Shape) -> None:
        """Creates the two constants, from the shape of the inputs."""
        self._broadcast: list[int | None] = [1] * len(input_shape)
        self._broadcast[self.axis] = input_shape[self.axis]
        shape = (input_shape[self.axis],)
        self.scale = self.add_weight(shape=shape, initializer="ones", name="scale", trainable=False)
        self.offset = self.add_weight(
            shape=shape, initializer="zeros", name="offset", trainable=False
        )

    def call(self, inputs: Any) -> Any:
        """Returns the inputs times the scale plus the offset."""
        scale, offset = ops.convert_to_tensor(self.scale), ops.convert_to_tensor(self.offset)
        if not self.is_convolution:
            scale, offset = (ops.reshape(one, self._broadcast) for one in (scale, offset))
            return inputs * scale + offset
        maps = inputs
        if len(inputs.shape) != 4:
            maps = ops.reshape(inputs, (-1, 1, _places(inputs.shape), inputs.shape[-1]))
        kernel = ops.reshape(scale, (1, 1, -1, 1))
        maps = ops.depthwise_conv(maps, kernel, padding="valid") + offset
        return maps if len(inputs.shape) == 4 else ops.reshape(maps, (-1, *inputs.shape[1:]))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"axis": self.axis, "is_convolution": self.is_convolution}
        return {**super().get_config(), **own}


def _places(shape: Shape) -> int:
    """Returns the product of the sizes between the first and the last axis."""
    return int(np.prod([size or 0 for size in shape[1:-1]], dtype=int))


def is_affine_in_integers(layer: keras.Operation) -> bool:
    """Returns whether an `Affine` by convolution can stand for a layer of a model."""
    if constants_of(layer) is None:  # others may have several outputs
        return False
    shape = layer.output.shape
    return shape[-1] is not None and (len(shape) == 4 or None not in shape[1:])


def constants_of(layer: keras.Operation) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns what a layer multiplies each channel by in inference, and adds to it, float64.

    Args:
        layer: A part of a model.

    Returns:
        Two arrays (channels,), or `None` if the layer does something else. The channels are the
        last axis; of a batch normalization its own.
    """
    constants = _CONSTANTS.get(type(layer), lambda _: None)(layer)
    if constants is None:
        return None
    axis = layer.axis if isinstance(layer, layers.BatchNormalization) else -1
    channels = layer.output.shape[axis]
    scale, offset = (_array(one) for one in constants)
    for one in (scale, offset):
        if one.size != 1 and one.shape[-1:] != (one.size,):
            return None
    scale, offset = (np.broadcast_to(one.ravel(), (channels,)) for one in (scale, offset))
    return scale, offset


def _of_normalization(layer: layers.BatchNormalization) -> tuple[Any, Any]:
    mean, variance = (_array(one) for one in (layer.moving_mean, layer.moving_variance))
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale *= _array(layer.gamma)
    offset = -mean * scale
    if layer.center:
        offset += _array(layer.beta)
    return scale, offset


def _of_adapted(layer: layers.Normalization) -> tuple[Any, Any]:
    mean = _array(layer.mean)
    deviation = np.maximum(np.sqrt(_array(layer.variance)), keras.config.epsilon())
    return (deviation, mean) if layer.invert else (1.0 / deviation, -mean / deviation)


def _of_rescaling(layer: layers.Rescaling) -> tuple[Any, Any]:
    return layer.scale, layer.offset


def _of_activation(layer: layers.Activation) -> tuple[Any, Any] | None:
    # Within 0 and 1, where its outputs are cut off anyway.
    return (1 / 6, 0.5) if layer.activation is keras.activations.hard_sigmoid else None


_CONSTANTS: dict[type, Any] = {
    Gain: Gain.constants,
    layers.Activation: _of_activation,
    layers.BatchNormalization: _of_normalization,
    layers.Normalization: _of_adapted,
    layers.Rescaling: _of_rescaling,
}


def _array(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable), "float64")
