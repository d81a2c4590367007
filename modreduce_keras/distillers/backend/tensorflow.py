"""What a training step needs of TensorFlow beside Keras' operations."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from modreduce_keras.keras_internals.replicas import once_for_all_replicas


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


def add_bias(x: Any, bias: Any, *, channels_first: bool) -> Any:
    """Adds a bias, in one operation with the convolution or the product of matrices before it.

    Args:
        x: (batch, ..., channels), or (batch, channels, ...).
        bias: (channels,).
        channels_first: Whether the channels are the second axis of `x`.
    """
    return tf.nn.bias_add(x, bias, data_format="NC..." if channels_first else "N...C")


def first_batch(iterator: Any, steps: int) -> tuple[Any, Any]:
    """Returns the next batch of an iterator, and an iterator that still has it.

    Args:
        iterator: What a compiled step is given: an iterator of `tf.data`, or any other. It may be
            of several replicas, whose batches cannot be put back.
        steps: How many batches the step draws from it.

    Returns:
        The batch, `None` if it cannot be seen, and the iterator for the next step alone where the
        first one is of `tf.data`: a compiled step takes it without being traced anew.
    """
    if isinstance(iterator, tf.distribute.DistributedIterator):
        return None, iterator
    if not isinstance(iterator, tf.data.Iterator):
        batches = list(itertools.islice(iterator, 1))
        return (batches[0] if batches else None), itertools.chain(batches, iterator)
    first = next(iterator, None)
    if first is None:
        return None, iterator
    batches = [first, *itertools.islice(iterator, steps - 1)]
    try:
        return first, iter(_dataset(batches, iterator.element_spec))
    except Exception:  # the step takes these too, traced once more
        return first, itertools.chain(batches, iterator)


def _dataset(batches: Sequence[Any], spec: Any) -> Any:
    """Returns a dataset of some batches whose shapes are as open as a spec says."""
    datasets = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    variants = [tf.data.experimental.to_variant(dataset) for dataset in datasets]
    opened: list[Any] = [tf.data.experimental.from_variant(variant, spec) for variant in variants]
    return functools.reduce(lambda one, other: one.concatenate(other), opened)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Lets GPUs multiply float32 as it is, which they round to fewer digits by default."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def compiled(function: Callable[..., Any], *args: Any, jit_compile: bool) -> Callable[[], Any]:
    """Returns a function without arguments that runs another one as a graph.

    Args:
        function: Is traced in the first call.
        *args: What it is called with.
        jit_compile: Whether XLA compiles it.
    """
    traced = tf.function(function, autograph=False, jit_compile=jit_compile)
    return lambda: traced(*args)


def device_names() -> tuple[str, ...]:
    """Returns the kinds of devices that there are."""
    return tuple(sorted({device.device_type for device in tf.config.list_physical_devices()}))


def gradient_tape(*, persistent: bool = False) -> Any:
    """Returns a context that records operations, whose `gradient(loss, variables)` is wanted.

    Args:
        persistent: Whether it is wanted of several losses.
    """
    return tf.GradientTape(persistent=persistent)


def global_norm(gradients: Sequence[Any]) -> float:
    """Returns the norm of all gradients together; those that are `None` count as zero."""
    return float(tf.linalg.global_norm(gradients))


def values(variables: Sequence[keras.Variable]) -> list[Any]:
    """Returns copies of the present values of variables."""
    return [tf.identity(variable.value) for variable in variables]


def restore(
    variables: Sequence[keras.Variable], before: Sequence[Any], restored: Sequence[Any], any_: Any
) -> None:
    """Writes back, on every replica, the old values of some variables.

    Args:
        variables: The variables.
        before: Their old values.
        restored: Whether each gets its old value, scalars in the graph.
        any_: Whether any of them does.
    """
    once_for_all_replicas(
        _restore, [variable.value for variable in variables], before, restored, any_
    )


def _restore(strategy: Any, variables: Any, before: Any, restored: Any, any_: Any) -> None:
    def restore_one(variable: Any, old: Any, flag: Any) -> None:
        variable.assign(tf.where(flag, old, variable))

    def restore_all() -> None:
        for variable, old, flag in zip(variables, before, restored, strict=True):
            strategy.extended.update(variable, restore_one, args=(old, flag), group=False)

    # Hardly ever: then everything is read and written once more.
    tf.cond(strategy.experimental_local_results(any_)[0], restore_all, lambda: None)


def run_if(condition: Any, function: Callable[[], None]) -> None:
    """Runs a function for its side effects where a condition holds, a scalar in the graph."""
    tf.cond(condition, function, lambda: None)


def map_gradient(function: Callable[[Any], Any], gradient: Any) -> Any:
    """Returns a function of a gradient's values; of those rows that a sparse one has."""
    if isinstance(gradient, tf.IndexedSlices):
        rows = function(gradient.values)
        return tf.IndexedSlices(rows, gradient.indices, gradient.dense_shape)
    return function(gradient)


def any_nonfinite(tensors: Sequence[Any]) -> Any:
    """Returns whether anything in some tensors or sparse gradients is not finite, a scalar."""
    dense = [one.values if isinstance(one, tf.IndexedSlices) else one for one in tensors]
    flags = [tf.reduce_any(~tf.math.is_finite(one)) for one in dense]
    return tf.reduce_any(tf.stack(flags)) if flags else tf.constant(False)


def outside_of_graphs() -> Any:
    """Returns a context that runs eagerly, where a graph is being traced as well."""
    return tf.init_scope()


def step_errors() -> type[Exception]:
    """Returns what a compiled step raises where its own checks of data fail."""
    return tf.errors.InvalidArgumentError


def on_rows(
    selected: Any, function: Callable[[Any], tuple[Any, ...]], x: Any, others: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Returns tensors with what a function gives for some rows of a batch, where there are any.

    Args:
        selected: Which rows, (batch,), bool.
        function: From those rows of `x` to tensors with as many rows.
        x: (batch, ...).
        others: What the other rows have, (batch, ...) each.
    """

    def run() -> Any:
        rows = tf.where(selected)
        found = function(tf.boolean_mask(x, selected))
        return [
            tf.tensor_scatter_nd_update(other, rows, new)
            for other, new in zip(others, found, strict=True)
        ]

    # Not for an empty batch: TensorFlow's convolutions return it in a wrong shape on the CPU.
    return tuple(tf.cond(tf.reduce_any(selected), run, lambda: list(others)))
