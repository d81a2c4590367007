"""Chunks: a function of the rows of large tensors, computed for a few rows at a time.

TensorFlow is imported where it is used, as in `replicas`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from modreduce_keras.distribute.replicas import on_tensorflow
from modreduce_keras.keras_internals import is_compiled_by_xla
from modreduce_keras.keras_internals.gradient_tapes import is_recorded

_ELEMENTS = 2**21
"""Elements of the largest tensor in a chunk: what is made of them stays in a processor's cache, and
starting an operation takes far less time than running it."""
_ALIGNED = 32
"""Rows of a chunk are a multiple of it where they can be: it then begins at an address at which
TensorFlow takes a part of a tensor without a copy."""

Function = Callable[..., Any]


def by_chunks(
    function: Function,
    constants: Sequence[Any],
    learnt: Sequence[Any],
    columns: int | None = None,
) -> Any:
    """Returns `function(*constants, *learnt)`, computed for a few rows at a time.

    The values of a row depend on that row alone. Of one tensor in float32, with one value for each
    row, the gradient is computed beside the values, and multiplied by what comes from above later.
    Otherwise each chunk is computed again for the gradient. What a compiled step needs beside the
    inputs is the gradient itself and what the function makes of one chunk; an eager one needs the
    gradient twice. Gradients of any order are those of the function. XLA fuses what the function
    does, and other backends have no such loop: there the function is called once.

    Args:
        function: Returns values, (n,) or (n, columns), float32. Each depends on the same row of
            the tensors alone.
        constants: Tensors, (n, ...), which get no gradient, or `None`.
        learnt: Tensors of floats, (n, ...), the largest first.
        columns: Number of values of each row, at most as many as the first of `learnt` has.
            Defaults to `None`, one.
    """
    if not on_tensorflow() or is_compiled_by_xla(learnt[0]):
        return function(*constants, *learnt)
    import tensorflow as tf

    fixed = len(constants)
    # In half precision, the product would be rounded twice; unrecorded, it is not needed.
    in_float32 = [tensor.dtype for tensor in learnt] == ["float32"]
    at_once = columns is None and in_float32 and is_recorded()

    def with_gradient(upstream: Any, *tensors: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(tensors[fixed:])
            values = function(*tensors)
        return [values, *tape.gradient(values, list(tensors[fixed:]), upstream, _ZERO)]

    @tf.custom_gradient
    def gradient(upstream: Any, *learnt: Any) -> Any:
        def second_order(*upstream_of_gradient: Any) -> Any:
            given = [upstream, *learnt]
            with tf.GradientTape() as tape:
                tape.watch(given)
                _, *gradients = with_gradient(upstream, *constants, *learnt)
            return tape.gradient(gradients, given, list(upstream_of_gradient), _ZERO)

        if at_once:
            made = [_times(each, upstream) for each in of_rows]
        else:
            inputs = [upstream, *constants, *learnt]
            made = _each_chunk(lambda *chunk: with_gradient(*chunk)[1:], inputs, learnt)
        return tuple(made), second_order

    of_rows: list[Any] = []

    @tf.custom_gradient
    def values(*learnt: Any) -> Any:
        # Without a gradient, or an eager tape would keep what is made here.
        tensors = [*constants, *map(tf.stop_gradient, learnt)]
        one_row = learnt[0][..., 0] if columns is None else learnt[0][..., :columns]
        like = tf.zeros_like(one_row, "float32")
        if at_once:
            made, *of_rows[:] = _each_chunk(
                lambda *chunk: with_gradient(None, *chunk), tensors, [like, *learnt]
            )
        else:
            (made,) = _each_chunk(lambda *chunk: [function(*chunk)], tensors, [like])
        return made, lambda upstream: gradient(upstream, *learnt)

    return values(*learnt)


def _times(gradient: Any, upstream: Any) -> Any:
    """Returns a gradient of rows, (n, ...), each times what comes from above for it, (n,)."""
    import tensorflow as tf

    shape = [-1] + [1] * (len(gradient.shape) - 1)
    return gradient * tf.cast(tf.reshape(upstream, shape), gradient.dtype)


_ZERO = "zero"
"""What unconnected gradients are."""


def _each_chunk(function: Function, tensors: Sequence[Any], likes: Sequence[Any]) -> list[Any]:
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
