"""Rows of large variables: reads, writes and restores them without copying the whole variable.

TensorFlow is imported where it is used, as in `replicas`.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from modreduce_keras.distribute.replicas import on_tensorflow
from modreduce_keras.typing import Tensor

_running = threading.local()


class Overwritten(NamedTuple):
    """Rows that `assign_rows` has overwritten.

    Attributes:
        variable: What they are of.
        index: Their index, (n,).
        rows: What they were, (n, ...).
    """

    variable: keras.Variable
    index: Any
    rows: Any


def changed_by_rows(variable: keras.Variable) -> keras.Variable:
    """Declares that a training step changes a variable by `assign_rows` alone, and returns it.

    Where a step can be skipped (`compile(on_nonfinite=)`, float16), the rows that it overwrites
    are then kept, and not a copy of the whole variable.
    """
    variable.changed_by_rows = True
    return variable


def is_changed_by_rows(variable: keras.Variable) -> bool:
    """Returns whether `changed_by_rows` has declared a variable."""
    return getattr(variable, "changed_by_rows", False)


@contextlib.contextmanager
def keeping_overwritten() -> Iterator[list[Overwritten]]:
    """Notes what `assign_rows` overwrites in a block, of variables that are changed by rows."""
    before, _running.journal = getattr(_running, "journal", None), []
    try:
        yield _running.journal
    finally:
        _running.journal = before


def take_back(overwritten: list[Overwritten], is_taken_back: Any) -> None:
    """Writes overwritten rows back.

    Args:
        overwritten: What `keeping_overwritten` noted.
        is_taken_back: Returns for a variable whether its rows are to be as they were, a scalar in
            the graph.
    """
    # Backwards, as one row may have been written twice.
    for variable, index, old in reversed(overwritten):
        present = take_rows(variable, index)
        assign_rows(variable, index, ops.where(is_taken_back(variable), old, present))


def take_rows(variable: keras.Variable, index: Tensor) -> Tensor:
    """Returns rows of a variable; on TensorFlow without a copy of the others.

    Args:
        variable: (size, ...).
        index: (...), int, from 0 to size - 1.

    Returns:
        (..., ...), constants: no gradient reaches the variable.
    """
    if on_tensorflow():
        import tensorflow as tf

        if isinstance(variable.value, tf.Variable):
            return tf.stop_gradient(tf.gather(variable.value, index))
    return ops.stop_gradient(ops.take(variable, index, axis=0))


def take_from_rows(tensor: Tensor, columns: Tensor) -> Tensor:
    """Returns elements of each row, as `take_along_axis` does, with a faster gradient on CPUs.

    The gradient adds up the values of equal columns. TensorFlow does this for all rows in one loop;
    a weighted count does it for several rows at a time. On GPUs, both are fast.

    Args:
        tensor: (n, size), of known size.
        columns: (n, taken), int32, from 0 to size - 1.

    Returns:
        (n, taken): `tensor[i, columns[i, j]]`.
    """
    if not on_tensorflow() or tensor.dtype != "float32" or tensor.shape[1] is None:
        return ops.take_along_axis(tensor, columns, axis=1)
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return ops.take_along_axis(tensor, columns, axis=1)
    size = tensor.shape[1]

    # Each is the gradient of the other, so that gradients of any order exist.
    @tf.custom_gradient
    def taken(rows: Any) -> Any:
        return tf.gather(rows, columns, batch_dims=1), counted

    @tf.custom_gradient
    def counted(weights: Any) -> Any:
        sums = tf.raw_ops.DenseBincount(
            input=columns, size=size, weights=weights, binary_output=False
        )
        return sums, taken

    return taken(tensor)


def assign_rows(variable: keras.Variable, index: Tensor, rows: Tensor) -> None:
    """Writes rows of a variable; on TensorFlow in place, without a copy of the others.

    On several replicas each must come with the same rows (`gather_over_replicas`), and the
    variable must be made with `aggregation="only_first_replica"`. Where an index comes twice, one
    of its rows is written. A variable that nothing else changes is to be declared by
    `changed_by_rows`.

    Args:
        variable: (size, ...).
        index: (n,), int, from 0 to size - 1.
        rows: (n, ...).
    """
    journal = getattr(_running, "journal", None)
    if journal is not None and is_changed_by_rows(variable):
        journal.append(Overwritten(variable, index, take_rows(variable, index)))
    if on_tensorflow():
        import tensorflow as tf

        if isinstance(variable.value, tf.Variable):
            variable.value.scatter_update(tf.IndexedSlices(rows, index))
            return
    variable.assign(ops.scatter_update(variable, ops.expand_dims(index, -1), rows))
