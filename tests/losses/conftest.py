"""What several loss tests share: value and gradients against a float64 function."""

import keras
import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture
def assert_equals_numpy(finite_differences):
    """Compares a loss's values per sample with `expected(teacher, student)`, and its gradients.

    The gradients of the summed values to every tensor of the student's side are compared with
    central differences of the expected function.
    """

    def check(loss, expected, teacher, student, rtol=1e-5):
        exact = keras.tree.map_structure(lambda side: side.astype("float64"), student)
        values = expected(teacher, exact)
        learnt = keras.tree.map_structure(lambda side: tf.constant(side, "float32"), student)
        with tf.GradientTape() as tape:
            tape.watch(learnt)
            actual = loss.call(teacher, learnt)
        np.testing.assert_allclose(actual, values, rtol=rtol, atol=1e-7)
        gradients = keras.tree.flatten(tape.gradient(actual, learnt))
        tensors = keras.tree.flatten(exact)
        for place, gradient in enumerate(gradients):

            def value(moved, place=place):
                sides = [*tensors[:place], moved, *tensors[place + 1 :]]
                return np.sum(expected(teacher, keras.tree.pack_sequence_as(exact, sides)))

            reference = finite_differences(value, tensors[place])
            size = np.abs(reference).max()
            assert size > 1e-6
            np.testing.assert_allclose(gradient / size, reference / size, atol=1e-4)

    return check
