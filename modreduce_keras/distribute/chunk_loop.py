"""The loop over chunks: a function of a few rows of large tensors at a time, put together.

TensorFlow is imported where it is used, as in `replicas`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

_ELEMENTS = 2**21
"""Elements of the largest tensor in a chunk: what is made of them stays in a processor's cache, and
starting an operation takes far less time than running it."""
_ALIGNED = 32
"""Rows of a chunk are a multiple of it where they can be: it then begins at an address at which
TensorFlow takes a part of a tensor without a copy."""


def each_chunk(
    function: Callable[..., list[Any]], tensors: Sequence[Any], likes: Sequence[Any]
) -> list[Any]:
    """Returns what a function makes of chunks of tensors, put together.

    Args:
        function: Returns a list of tensors, (k, ...), from chunks of the tensors.
        tensors: (n, ...), or `None`.
        likes: Tensors of the shapes and dtypes of the results, (n, ...).
    """
    import tensorflow as tf

    present = [tensor for tensor in tensors if tensor is not None]
    widest = max(math.prod(tensor.shape[1:]) for tensor in present)
    rows = max(1, _ELEMENTS // widest)
    rows -= rows % _ALIGNED if rows > _ALIGNED else 0
    number = tf.shape(present[0])[0]

    def made_of(start: Any) -> list[Any]:
        chunk = [None if tensor is None else tensor[start : start + rows] for tensor in tensors]
        return function(*chunk)

    if tf.executing_eagerly():
        chunks = [made_of(start) for start in range(0, max(1, int(number)), rows)]
        return [tf.concat(several, axis=0) for several in zip(*chunks, strict=True)]

    has_gpu = bool(tf.config.list_physical_devices("GPU"))

    def write_rows(old: Any, start: Any, end: Any, new: Any) -> Any:
        # Other operations copy the whole tensor. On a CPU, the first one writes element by element;
        # the second one has no kernel for bfloat16 on a GPU. It writes into its input, which
        # nothing else reads.
        if has_gpu:
            update = tf.raw_ops.TensorStridedSliceUpdate
            return update(input=old, begin=[start], end=[end], strides=[1], value=new)
        return tf.raw_ops.InplaceUpdate(x=old, i=tf.range(start, end), v=new)

    def write(start: Any, *written: Any) -> Any:
        end = tf.minimum(start + rows, number)
        pairs = zip(written, made_of(start), strict=True)
        return end, *(write_rows(old, start, end, new) for old, new in pairs)

    unset = [tf.raw_ops.Empty(shape=tf.shape(like), dtype=like.dtype) for like in likes]
    _, *made = tf.while_loop(
        lambda start, *_: start < number, write, (0, *unset), parallel_iterations=1
    )
    return made
