"""TensorFlow kernels that Keras has no operation for."""

import math
from typing import Any

import tensorflow as tf


def normalize_batch(x: Any, scale: Any, offset: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Normalizes a batch by its own statistics, in one kernel instead of a dozen.

    Args:
        x: (batch, ..., channels) of two to five axes; float32, bfloat16 or float16.
        scale: (channels,), float32.
        offset: (channels,), float32.
        epsilon: Is added to the variance.

    Returns:
        The normalized batch in the shape and dtype of `x`, and its mean and its variance (of the
        population, as Keras takes it), (channels,) each, float32.
    """
    size = tf.shape(x)
    images, count = _as_images(x, size)
    empty = tf.zeros((0,), tf.float32)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=images, scale=scale, offset=offset, mean=empty, variance=empty, epsilon=epsilon
    )
    # The kernel normalizes by the variance of the population, but returns that of a sample.
    count = tf.cast(count, tf.float32)
    variance *= tf.maximum(count - 1.0, 1.0) / tf.maximum(count, 1.0)
    y = tf.reshape(y, size)
    y.set_shape(x.shape)
    return y, mean, variance


def _as_images(x: Any, size: Any) -> tuple[Any, Any]:
    """Returns a batch in the shape that the kernel takes, and the number of values per channel."""
    static = x.shape.as_list()
    positions = static[1:-1]
    if len(static) == 4:
        images = x
    elif None in positions:
        images = tf.reshape(x, (size[0], tf.reduce_prod(size[1:-1]), 1, static[-1]))
    else:
        images = tf.reshape(x, (size[0], math.prod(positions), 1, static[-1]))
    return images, tf.reduce_prod(size[:-1])
