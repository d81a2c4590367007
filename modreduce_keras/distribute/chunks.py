"""Chunks: a function of the rows of large tensors, computed for a few rows at a time.

TensorFlow is imported where it is used, as in `replicas`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from modreduce_keras.distribute import chunk_loop
from modreduce_keras.distribute.replicas import on_tensorflow
from modreduce_keras.keras_internals import is_compiled_by_xla
from modreduce_keras.keras_internals.gradient_tapes import is_recorded

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
    # In half precision, the product would be rounded twice; unrecorded, it is not needed.
    in_float32 = [tensor.dtype for tensor in learnt] == ["float32"]
    if columns is None and in_float32 and is_recorded():
        return _with_gradient_beside(function, constants, learnt)
    return _with_gradient_after(function, constants, learnt, columns)


def _with_gradient_beside(
    function: Function, constants: Sequence[Any], learnt: Sequence[Any]
) -> Any:
    """Returns the values of chunks whose gradient is computed with them, as if of their sum."""
    import tensorflow as tf

    of_rows: list[Any] = []

    def first_order(upstream: Any, *learnt: Any) -> list[Any]:
        return [_times(each, upstream) for each in of_rows]

    @tf.custom_gradient
    def values(*learnt: Any) -> Any:
        # Without a gradient, or an eager tape would keep what is made here.
        tensors = [*constants, *map(tf.stop_gradient, learnt)]
        like = tf.zeros_like(learnt[0][..., 0], "float32")
        made, *of_rows[:] = chunk_loop.each_chunk(
            lambda *chunk: _values_and_gradients(function, len(constants), None, chunk),
            tensors,
            [like, *learnt],
        )
        gradient = _differentiable(function, constants, first_order)
        return made, lambda upstream: gradient(upstream, *learnt)

    return values(*learnt)


def _with_gradient_after(
    function: Function, constants: Sequence[Any], learnt: Sequence[Any], columns: int | None
) -> Any:
    """Returns the values of chunks that are computed again for the gradient."""
    import tensorflow as tf

    def first_order(upstream: Any, *learnt: Any) -> list[Any]:
        def gradients(upstream: Any, *chunk: Any) -> list[Any]:
            return _values_and_gradients(function, len(constants), upstream, chunk)[1:]

        return chunk_loop.each_chunk(gradients, [upstream, *constants, *learnt], learnt)

    @tf.custom_gradient
    def values(*learnt: Any) -> Any:
        # Without a gradient, or an eager tape would keep what is made here.
        tensors = [*constants, *map(tf.stop_gradient, learnt)]
        one_row = learnt[0][..., 0] if columns is None else learnt[0][..., :columns]
        like = tf.zeros_like(one_row, "float32")
        (made,) = chunk_loop.each_chunk(lambda *chunk: [function(*chunk)], tensors, [like])
        gradient = _differentiable(function, constants, first_order)
        return made, lambda upstream: gradient(upstream, *learnt)

    return values(*learnt)


def _differentiable(function: Function, constants: Sequence[Any], first_order: Function) -> Any:
    """Returns the gradient of a function as a function that has a gradient itself.

    Args:
        function: The function, of the constants and of what is learnt.
        constants: Its first arguments, which get no gradient.
        first_order: Computes the gradient, from what comes from above and from what is learnt.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def gradient(upstream: Any, *learnt: Any) -> Any:
        def second_order(*upstream_of_gradient: Any) -> Any:
            given = [upstream, *learnt]
            with tf.GradientTape() as tape:
                tape.watch(given)
                inputs = [*constants, *learnt]
                _, *gradients = _values_and_gradients(function, len(constants), upstream, inputs)
            return tape.gradient(gradients, given, list(upstream_of_gradient), _ZERO)

        return tuple(first_order(upstream, *learnt)), second_order

    return gradient


def _values_and_gradients(
    function: Function, fixed: int, upstream: Any, tensors: Sequence[Any]
) -> list[Any]:
    """Returns a function's values, and their gradient by all but the first tensors.

    Args:
        function: The function.
        fixed: Number of tensors that get no gradient.
        upstream: What comes from above, `None` for ones.
        tensors: The arguments.
    """
    import tensorflow as tf

    learnt = list(tensors[fixed:])
    with tf.GradientTape() as tape:
        tape.watch(learnt)
        values = function(*tensors)
    return [values, *tape.gradient(values, learnt, upstream, _ZERO)]


def _times(gradient: Any, upstream: Any) -> Any:
    """Returns a gradient of rows, (n, ...), each times what comes from above for it, (n,)."""
    import tensorflow as tf

    shape = [-1] + [1] * (len(gradient.shape) - 1)
    return gradient * tf.cast(tf.reshape(upstream, shape), gradient.dtype)


_ZERO = "zero"
"""What unconnected gradients are."""
