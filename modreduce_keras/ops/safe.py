"""Functions whose value and gradient are finite everywhere."""

from keras import ops

from modreduce_keras.typing import Tensor


def safe_sqrt(values: Tensor) -> Tensor:
    """Returns the square root, with value 0 and gradient 0 where `values` is not positive."""
    positive = values > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, values, 1.0)), 0.0)


def safe_reciprocal(values: Tensor) -> Tensor:
    """Returns 1 / values, with value 0 and gradient 0 where `values` is 0."""
    nonzero = ops.not_equal(values, 0)
    return ops.where(nonzero, 1.0 / ops.where(nonzero, values, 1.0), 0.0)


def smooth_l1(difference: Tensor) -> Tensor:
    """Returns ½ d² where |d| < 1 and |d| - ½ elsewhere (Girshick 2015)."""
    magnitude = ops.abs(difference)
    return ops.where(magnitude < 1.0, 0.5 * ops.square(difference), magnitude - 0.5)
