"""Replicas: the few operations of a training step that reach across devices."""

import tensorflow as tf


def num_replicas() -> int:
    """Returns the number of replicas that train together."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(value):
    """Returns the sum of a tensor over all replicas; the tensor itself where there is one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
