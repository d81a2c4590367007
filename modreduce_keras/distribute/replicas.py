"""Replicas: the few operations of a training step that reach across devices.

TensorFlow is imported where it is used, so that what imports this module runs on every backend
of Keras; on the others there is one replica.
"""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from modreduce_keras.typing import Tensor


def on_tensorflow() -> bool:
    """Returns whether Keras runs on TensorFlow."""
    return keras.backend.backend() == "tensorflow"


def _replica_context() -> Any:
    """Returns TensorFlow's context of this replica; `None` where it is the only one."""
    if not on_tensorflow():
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context


def num_replicas() -> int:
    """Returns the number of replicas that train together."""
    if not on_tensorflow():
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(value: Any) -> Tensor:
    """Returns the sum of a tensor over all replicas; the tensor itself where there is one."""
    context = _replica_context()
    # Outside of graphs, sizes of tensors are Python integers.
    return value if context is None else context.all_reduce("SUM", ops.convert_to_tensor(value))


def share_over_replicas(mask: Tensor) -> Tensor:
    """Returns the share of the ones in a mask, float32, over all replicas; 0 without positions."""
    ones = ops.sum(ops.cast(mask, "float32"))
    size = ops.cast(ops.prod(ops.convert_to_tensor(ops.shape(mask), "int32")), "float32")
    ones, size = sum_over_replicas(ones), sum_over_replicas(size)
    return ones / ops.maximum(size, 1.0)


def average_over_replicas(variables: Iterable[keras.Variable]) -> None:
    """Gives variables that each replica moves by itself the mean over all replicas."""
    context, variables = _replica_context(), list(variables)
    if context is None or not variables:
        return
    import tensorflow as tf

    # What is read of a variable has no device of its own, which collectives of machines want.
    means = context.all_reduce("MEAN", [tf.identity(variable.value) for variable in variables])
    for variable, mean in zip(variables, means, strict=True):
        variable.assign(mean)


def gather_over_replicas(value: Any) -> Tensor:
    """Returns the rows of a tensor of all replicas, in the order of the global batch.

    The replicas of one machine may hold unequal numbers of rows, and none. On several machines
    the numbers must not change from step to step: batch with `drop_remainder=True`.

    Args:
        value: (batch of this replica, ...).

    Returns:
        (batch of all replicas, ...), constant; the tensor itself where there is one replica.
    """
    context = _replica_context()
    if context is None:
        return value
    import tensorflow as tf

    value = tf.stop_gradient(value)
    if not isinstance(context.strategy, tf.distribute.MirroredStrategy):
        return context.all_gather(value, axis=0)
    return _merged(context, lambda parts: tf.concat(parts, 0), value)


def _merged(context: Any, merge: Any, value: Any) -> Tensor:
    """Returns what a function makes of the values of all replicas of one machine.

    Not by a collective: in the nested functions of `fit`, that keeps the shape of its first step,
    and fails when a last batch is smaller.
    """
    return context.merge_call(
        lambda strategy, values: merge(strategy.experimental_local_results(values)), (value,)
    )


def gather_with_gradient(value: Any) -> Tensor:
    """Returns the rows of all replicas like `gather_over_replicas`, and lets gradients back.

    A row's gradient is the sum of those that it has on all replicas. So where each replica adds
    to the loss only what its own rows stand for, all gradients are those of the global batch.

    Args:
        value: (batch of this replica, ...).

    Returns:
        (batch of all replicas, ...); the tensor itself where there is one replica.
    """
    context = _replica_context()
    if context is None:
        return value
    import tensorflow as tf

    if not isinstance(context.strategy, tf.distribute.MirroredStrategy):
        return context.all_gather(value, axis=0)

    @tf.custom_gradient
    def gather(rows: Tensor) -> tuple[Tensor, Tensor]:
        begin, _ = place_in_global_batch(tf.shape(rows)[0])

        def gradient(upstream: Tensor) -> Tensor:
            total = _merged(context, tf.add_n, upstream)
            return total[begin : begin + tf.shape(rows)[0]]

        return gather_over_replicas(rows), gradient

    return gather(value)


def place_in_global_batch(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns where a replica's rows begin in the batch of all replicas, and that batch's size.

    Args:
        rows: Number of rows of this replica.

    Returns:
        Two scalars; (0, rows) where there is one replica.
    """
    context = _replica_context()
    if context is None:
        return 0, rows
    sizes = gather_over_replicas(ops.reshape(ops.cast(rows, "int32"), (1,)))
    return ops.sum(sizes[: context.replica_id_in_sync_group]), ops.sum(sizes)


def require_sample_index(index: Tensor, samples: int, owner: str) -> Tensor:
    """Returns the samples' index as int32, after a check of it as it came.

    Args:
        index: Index of each sample, (batch,), of any kind of integers.
        samples: The number of training samples.
        owner: Who remembers them, for messages.

    Raises:
        ValueError: If there is none for each sample, or they are not integers. For what lies
            outside of the data, see `require_index`.
    """
    if len(index.shape) != 1:
        raise ValueError(
            "index must have one number for each sample, (batch,): apply mr.data.with_index "
            f"before batch. Received: index of shape {tuple(index.shape)}"
        )
    dtype = keras.backend.standardize_dtype(index.dtype)
    if "int" not in dtype:
        raise ValueError(
            f"index must be integers, as of mr.data.with_index. Received: index of dtype {dtype}"
        )
    message = (
        f"index must lie from 0 to {samples - 1}, as {owner} has samples={samples}: give the "
        "number of training samples."
    )
    # As it came: what is cast first may be another sample's.
    return ops.cast(require_index(ops.convert_to_tensor(index), samples, message), "int32")


def require_index(index: Tensor, size: int, message: str) -> Tensor:
    """Returns an index after a check that it lies from 0 to size - 1.

    The check is an error in the step on TensorFlow, unless the step is compiled by XLA, which
    leaves checks out; and on other backends where the values are known, outside of a graph.

    Raises:
        ValueError: Outside of a graph, if an index lies outside.
        tf.errors.InvalidArgumentError: In a graph of TensorFlow.
    """
    if on_tensorflow():
        import tensorflow as tf

        if not tf.executing_eagerly():
            inside = tf.reduce_all((index >= 0) & (index < size))
            check = tf.debugging.Assert(inside, [message, "Received:", index], summarize=8)
            with tf.control_dependencies([check]):
                return tf.identity(index)
    try:
        values = ops.convert_to_numpy(index)
    except Exception:
        # A tracer of another backend has no values.
        return index
    if ((values < 0) | (values >= size)).any():
        raise ValueError(f"{message} Received: {values.tolist()}")
    return index
