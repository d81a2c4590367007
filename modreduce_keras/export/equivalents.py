"""Equivalents: operations that TFLite or ONNX lack, computed by operations that they have."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.keras_internals import (
    delete_unnoticed,
    flatten_layers,
    fourier_transforms,
    set_unnoticed,
)

_MOST_STEPS = 256
"""More steps of a recurrent layer make a file long."""
_MOST_POINTS = 4096
"""A Fourier transform of more numbers would need a matrix of hundreds of megabytes."""


@contextlib.contextmanager
def equivalents() -> Iterator[None]:
    """Traces operations that files lack as others, which compute the same.

    - `roll`: two slices that are joined in the other order, along axes of known sizes.
    - `fft`, `fft2` and `ifft2` of `keras.ops`: products with the matrices of the discrete Fourier
      transform, along axes of known sizes up to 4,096.

    Others stay as they are, as does everything outside of this context.
    """
    roll = tf.roll
    tf.roll = lambda input, shift, axis, name=None: _rolled(roll, input, shift, axis)
    try:
        with fourier_transforms(_transform):
            yield
    finally:
        tf.roll = roll


@contextlib.contextmanager
def unrolled(model: keras.Model) -> Iterator[None]:
    """Lets recurrent layers compute without a loop, if they have at most 256 steps.

    Args:
        model: What is traced meanwhile.
    """
    recurrent = [one for one in flatten_layers(model) if _can_be_unrolled(one)]
    before = [one.unroll for one in recurrent]
    try:
        for one in recurrent:
            set_unnoticed(one, "call", _unrolling(one))
        yield
    finally:
        for one, unroll in zip(recurrent, before, strict=True):
            delete_unnoticed(one, "call")
            one.unroll = unroll


def _can_be_unrolled(layer: keras.layers.Layer) -> bool:
    is_recurrent = isinstance(layer, keras.layers.RNN) and not layer.unroll
    return is_recurrent and "call" not in vars(layer)


def _unrolling(layer: keras.layers.RNN) -> Any:
    call = layer.call

    def unrolling(sequences: Any, *args: Any, **kwargs: Any) -> Any:
        steps = sequences.shape[1]
        layer.unroll = steps is not None and steps <= _MOST_STEPS
        return call(sequences, *args, **kwargs)

    return unrolling


def _rolled(roll: Any, tensor: Any, shift: Any, axis: Any) -> Any:
    """Returns what `tf.roll` does, by slices where the sizes are known."""
    tensor = tf.convert_to_tensor(tensor)
    shifts, axes = (tf.get_static_value(one) for one in (shift, axis))
    if shifts is None or axes is None or tensor.shape.rank is None:
        return roll(tensor, shift, axis)
    pairs = list(zip(np.ravel(shifts), np.ravel(axes), strict=True))
    if any(tensor.shape[int(one)] is None for _, one in pairs):
        return roll(tensor, shift, axis)
    for places, one in pairs:
        size = tensor.shape[int(one)]
        places = int(places) % max(size, 1)
        if places:
            parts = tf.split(tensor, [size - places, places], axis=int(one))
            tensor = tf.concat(parts[::-1], axis=int(one))
    return tensor


def _transform(transform: Any, numbers: Any, axes: int) -> Any:
    """Returns a Fourier transform along the last axes, by products where the sizes are known.

    Args:
        transform: Computes it otherwise.
        numbers: Real and imaginary part.
        axes: 1 or 2.
    """
    real, imaginary = (tf.convert_to_tensor(one) for one in numbers)
    sizes = real.shape[-axes:]
    is_single = real.dtype == tf.float32
    if not is_single or any(size is None or size > _MOST_POINTS for size in sizes):
        return transform(numbers)
    parts = (real, None if _is_zero(imaginary) else imaginary)
    parts = _along_the_last(*parts)
    if axes == 1:
        return parts
    turned = _along_the_last(*map(_swapped, parts))
    return tuple(map(_swapped, turned))


def _is_zero(tensor: Any) -> bool:
    """Returns whether a tensor of a graph is made as zeros."""
    operation = None if tf.executing_eagerly() else getattr(tensor, "op", None)
    return operation is not None and operation.type == "ZerosLike"


def _along_the_last(real: Any, imaginary: Any) -> tuple[Any, Any]:
    """Returns (r + i j) (C - S j), with the cosines and sines of the last axis."""
    cosines, sines = _matrices(real.shape[-1])
    if imaginary is None:
        return real @ cosines, real @ -sines
    return real @ cosines + imaginary @ sines, imaginary @ cosines + real @ -sines


def _matrices(size: int) -> tuple[np.ndarray, np.ndarray]:
    turns = np.outer(np.arange(size), np.arange(size)) % size
    angles = 2.0 * np.pi * turns / size
    return np.cos(angles).astype("float32"), np.sin(angles).astype("float32")


def _swapped(tensor: Any) -> Any:
    return tf.linalg.matrix_transpose(tensor)
