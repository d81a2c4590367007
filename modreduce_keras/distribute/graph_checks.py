"""Checks of values inside a compiled step, which are known only when it runs.

TensorFlow is imported where it is used, as in `replicas`.
"""

from typing import Any

import numpy as np
from keras import ops

from modreduce_keras.distribute.replicas import on_tensorflow


def known(values: Any) -> np.ndarray | None:
    """Returns the values of a tensor as an array; `None` inside a graph, where there are none."""
    if on_tensorflow():
        import tensorflow as tf

        if not tf.executing_eagerly():
            return None
    try:
        return np.asarray(ops.convert_to_numpy(values))
    except Exception:
        # A tracer of another backend has no values.
        return None


def checked_in_graph(fits: Any, rows: Any, message: str, result: Any) -> Any:
    """Returns a result after a check, as the graph runs, that all rows fit.

    Args:
        fits: Which do, (batch, ...), bool.
        rows: (batch, ..., units), float32.
        message: What is wrong if one does not.
        result: What to return.

    Raises:
        tf.errors.InvalidArgumentError: If one does not; XLA leaves the check out, and so do other
            backends.
    """
    if not on_tensorflow():
        return result
    import tensorflow as tf

    flat = tf.cast(tf.reshape(fits, (-1,)), "int32")
    rows = tf.reshape(rows, (-1, rows.shape[-1]))
    # The first that does not fit; the row of zeros stands there if all do.
    rows = tf.concat([rows, tf.zeros((1, rows.shape[-1]))], axis=0)
    first = tf.gather(rows, tf.reduce_sum(tf.math.cumprod(flat)))
    check = tf.debugging.Assert(tf.reduce_all(fits), [message, "Received:", first], summarize=8)
    with tf.control_dependencies([check]):
        return tf.identity(result)
