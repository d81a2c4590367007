"""Tests of the largest logits with the rest as one, against NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp, softmax

from modreduce_keras.top_k import TopK, outcomes

CLASSES, K = 9, 3


def in_graph(function):
    return tf.function(function, autograph=False)


def expected_outcomes(logits, indices):
    made = []
    for row, own in zip(
        np.float64(logits).reshape(-1, logits.shape[-1]),
        indices.reshape(-1, indices.shape[-1]),
        strict=True,
    ):
        made.append([*row[own], logsumexp(np.delete(row, own))])
    return np.reshape(made, (*indices.shape[:-1], indices.shape[-1] + 1))


def some(random, shape=(2, 4), classes=CLASSES, k=K):
    order = np.argsort(random.random((*shape, classes)), axis=-1)
    return random.normal(scale=3, size=(*shape, classes)).astype("float32"), order[..., :k]


@pytest.mark.parametrize("run", [lambda function: function, in_graph], ids=["eager", "graph"])
@pytest.mark.parametrize("shape", [(5,), (2, 4), (0, 3)], ids=str)
def test_outcomes_equal_numpy(run, shape, random):
    logits, indices = some(random, shape)
    made = run(lambda z: outcomes(z, tf.constant(indices, "uint16")))(tf.constant(logits))
    np.testing.assert_allclose(made, expected_outcomes(logits, indices), rtol=1e-5, atol=1e-6)


def test_the_probabilities_are_those_of_the_classes_and_of_any_other(random):
    logits, indices = some(random)
    whole = softmax(np.float64(logits), axis=-1)
    chosen = np.take_along_axis(whole, indices, axis=-1)
    expected = np.concatenate([chosen, 1 - chosen.sum(axis=-1, keepdims=True)], axis=-1)
    np.testing.assert_allclose(softmax(outcomes(logits, indices), axis=-1), expected, rtol=1e-5)


def test_a_rest_of_little_mass_is_exact(random):
    logits, indices = some(random)
    np.put_along_axis(logits, indices, 80.0, axis=-1)
    made = outcomes(logits, indices)
    np.testing.assert_allclose(made, expected_outcomes(logits, indices), rtol=1e-6)


def test_a_rest_of_no_mass(random):
    logits, indices = some(random, shape=(3,))
    values = np.take_along_axis(logits, indices, axis=-1)
    logits = np.full_like(logits, -np.inf)
    np.put_along_axis(logits, indices, values, axis=-1)
    given = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(given)
        made = outcomes(given, tf.constant(indices))
        total = tf.reduce_sum(tf.nn.softmax(made)[:, 0])
    np.testing.assert_array_equal(made[:, :K], values)
    np.testing.assert_array_equal(tf.nn.softmax(made)[:, K], np.zeros(3))
    shares = softmax(np.float64(values), axis=-1)
    slopes = shares[:, :1] * (np.eye(K)[0] - shares)
    expected = np.zeros_like(logits)
    np.put_along_axis(expected, indices, slopes.astype("float32"), axis=-1)
    np.testing.assert_allclose(tape.gradient(total, given), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("run", [lambda function: function, in_graph], ids=["eager", "graph"])
def test_gradients_equal_finite_differences(run, random, finite_differences):
    logits, indices = some(random, shape=(3,))
    weights = random.normal(size=(*logits.shape[:-1], K + 1))

    def slopes(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            total = tf.reduce_sum(outcomes(logits, tf.constant(indices)) * weights)
        return tape.gradient(total, logits)

    def curvature(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            norm = tf.reduce_sum(tf.square(slopes(logits)))
        return tape.gradient(norm, logits)

    def exact(z):
        return np.sum(expected_outcomes(z, indices) * weights)

    given = tf.constant(logits)
    numbers = finite_differences(exact, np.float64(logits))
    np.testing.assert_allclose(run(slopes)(given), numbers, atol=1e-5)
    compiled = in_graph(slopes)
    second = finite_differences(
        lambda z: np.sum(np.square(compiled(tf.constant(z, "float32")))), np.float64(logits), 1e-2
    )
    np.testing.assert_allclose(run(curvature)(given), second, atol=2e-3 * np.abs(second).max())


def test_a_gradient_is_in_the_dtype_of_the_logits(random):
    logits, indices = some(random)
    low = tf.cast(logits, "bfloat16")
    with tf.GradientTape() as tape:
        tape.watch(low)
        total = tf.reduce_sum(outcomes(low, indices))
    assert tape.gradient(total, low).dtype == "bfloat16"
    assert outcomes(low, indices).dtype == "float32"


@pytest.mark.parametrize("has_rest", [True, False])
def test_labels_are_outcomes(has_rest):
    indices = np.array([[[4, 1], [0, 3]]], "uint16")
    few = TopK(np.zeros((1, 2, 3 if has_rest else 2), "float32"), indices)
    assert few.has_rest == has_rest
    for labels, expected in ([[1, 0]], [1, 0]), ([[2, 3]], [2, 1]), ([[-1, 5]], [-1, -1]):
        np.testing.assert_array_equal(few.outcome_of(np.array(labels), 5)[0], expected)
    logits = np.arange(10.0).reshape(1, 2, 5)
    made = few.outcomes_of(logits)
    np.testing.assert_array_equal(made[..., :2], [[[4, 1], [5, 8]]])
    assert made.shape[-1] == few.logits.shape[-1]
