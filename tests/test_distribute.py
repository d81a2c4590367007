"""Helpers of replicas on one: identity, rows of a variable, and the check of an index."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras import distribute
from modreduce_keras.distribute.host_functions import on_host


def test_one_replica_keeps_what_it_has():
    value = tf.constant([[1.0], [2.0]])
    assert distribute.num_replicas() == 1
    assert distribute.sum_over_replicas(value) is value
    assert distribute.gather_over_replicas(value) is value
    assert distribute.place_in_global_batch(7) == (0, 7)


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_are_taken_and_assigned(compiled):
    variable = keras.Variable(np.zeros((4, 2), "float32"), trainable=False)
    buffer = variable.value
    rows = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")

    def step():
        distribute.assign_rows(variable, tf.constant([3, 1]), rows)
        return distribute.take_rows(variable, tf.constant([1, 1, 3, 0]))

    taken = (tf.function(step) if compiled else step)()
    np.testing.assert_array_equal(taken, [rows[1], rows[1], rows[0], [0, 0]])
    np.testing.assert_array_equal(variable, [[0, 0], rows[1], [0, 0], rows[0]])
    assert variable.value is buffer


def test_an_index_is_checked_eagerly_and_in_a_graph():
    inside = tf.constant([0, 2])
    np.testing.assert_array_equal(distribute.require_index(inside, 3, "Wrong."), inside)
    in_graph = tf.function(lambda index: distribute.require_index(index, 3, "Wrong."))
    np.testing.assert_array_equal(in_graph(inside), inside)
    with pytest.raises(ValueError, match=r"^Wrong. Received: \[0, 3\]$"):
        distribute.require_index(tf.constant([0, 3]), 3, "Wrong.")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Wrong"):
        in_graph(tf.constant([-1, 0]))


def test_other_backends_have_one_replica_and_write_by_keras_ops(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    variable = keras.Variable(np.zeros((3, 2), "float32"), trainable=False)
    distribute.assign_rows(variable, tf.constant([2]), tf.ones((1, 2)))
    np.testing.assert_array_equal(variable, [[0, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(
        distribute.take_rows(variable, tf.constant([2, 0])), [[1, 1], [0, 0]]
    )
    rows = tf.ones((2, 1))
    assert distribute.gather_over_replicas(rows) is distribute.sum_over_replicas(rows) is rows
    assert (distribute.num_replicas(), distribute.place_in_global_batch(2)) == (1, (0, 2))
    with pytest.raises(ValueError, match="Wrong"):
        distribute.require_index(tf.constant([3]), 3, "Wrong.")
    # What is traced has no values to check.
    traced = tf.function(lambda index: distribute.require_index(index, 3, "Wrong."))
    np.testing.assert_array_equal(traced(tf.constant([3])), [3])


def test_a_function_on_the_host_is_not_called_for_no_samples():
    """A replica may get none of the last batch."""

    def function(rows):
        return np.float32(rows.min(axis=1, keepdims=True))

    run = tf.function(lambda x: on_host(function, x, (1,)))
    assert run(tf.ones((2, 3))).shape == (2, 1)
    assert run(tf.ones((0, 3))).shape == (0, 1)


class TestTakeFromRows:
    """Elements of rows equal NumPy's, with gradients of the first and the second order."""

    TENSOR = np.random.default_rng(0).normal(size=(3, 7)).astype("float32")
    COLUMNS = np.array([[0, 6, 6, 6], [1, 2, 3, 1], [5, 5, 0, 4]], "int32")
    UPSTREAM = np.arange(1.0, 13.0, dtype="float32").reshape(3, 4)

    @pytest.mark.parametrize("jit_compile", [False, True])
    @pytest.mark.parametrize("rows", [3, None])
    def test_values_and_gradients(self, jit_compile, rows):
        @tf.function(
            jit_compile=jit_compile,
            input_signature=[
                tf.TensorSpec([rows, 7]),
                tf.TensorSpec([rows, 4], tf.int32),
                tf.TensorSpec([rows, 4]),
            ],
        )
        def all_of(tensor, columns, upstream):
            with tf.GradientTape() as outer:
                outer.watch(upstream)
                with tf.GradientTape() as inner:
                    inner.watch(tensor)
                    taken = distribute.take_from_rows(tensor, columns)
                gradient = inner.gradient(taken, tensor, upstream)
            return taken, gradient, outer.gradient(gradient, upstream, self.TENSOR)

        taken, gradient, second = all_of(self.TENSOR, self.COLUMNS, self.UPSTREAM)
        expected = np.zeros_like(self.TENSOR)
        np.add.at(expected, (np.arange(3)[:, None], self.COLUMNS), self.UPSTREAM)
        of_numpy = np.take_along_axis(self.TENSOR, self.COLUMNS, axis=1)
        np.testing.assert_array_equal(taken, of_numpy)
        np.testing.assert_array_equal(gradient, expected)
        np.testing.assert_array_equal(second, of_numpy)

    @pytest.mark.parametrize("dtype", ["float16", "float64"])
    def test_other_precisions(self, dtype):
        tensor = self.TENSOR.astype(dtype)
        taken = distribute.take_from_rows(tensor, self.COLUMNS)
        np.testing.assert_array_equal(taken, np.take_along_axis(tensor, self.COLUMNS, axis=1))
        assert taken.dtype == dtype
