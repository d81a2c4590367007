"""Tensors in another form: flat, in float32, with a scaled gradient."""

import math
from typing import Any

import keras
from keras import ops

from modreduce_keras.typing import Tensor


def as_list(one_or_several: Any) -> Tensor:
    """Returns a list or tuple as a list, and anything else as a list of it alone."""
    several = isinstance(one_or_several, (list, tuple))
    return list(one_or_several) if several else [one_or_several]


def flatten(values: Tensor) -> Tensor:
    """Returns (batch, ...) as (batch, features)."""
    if len(values.shape) == 2:
        return values
    sizes = values.shape[1:]
    return ops.reshape(values, (ops.shape(values)[0], -1 if None in sizes else math.prod(sizes)))


def float32(tensors: Tensor) -> Tensor:
    """Returns a tensor, or a structure of them, as float32."""
    return keras.tree.map_structure(lambda tensor: ops.cast(tensor, "float32"), tensors)


def scale_gradient(tensor: Tensor, factor: Tensor) -> Tensor:
    """Returns a tensor whose gradient is multiplied by a factor on its way back.

    Args:
        tensor: (...), a floating-point tensor.
        factor: Of a shape that broadcasts to the tensor's; a constant to the gradient.
    """

    @ops.custom_gradient
    def identity(values: Tensor) -> tuple[Tensor, Tensor]:
        def gradient(*args: Any, upstream: Tensor | None = None) -> Tensor:
            (upstream,) = args or (upstream,)
            return upstream * ops.cast(factor, upstream.dtype)

        return values, gradient

    return identity(tensor)
