"""The orthogonal projector: orthogonal at every step, exact gradients, means over places."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

WIDTHS = [(4, 6), (6, 4), (5, 5)]


def built(student, teacher, **arguments):
    adapter = mr.adapters.OrthogonalProjector(**arguments)
    adapter.build((None, student), (None, teacher))
    return adapter


def assert_orthogonal(adapter):
    projection = np.array(adapter.projection())
    gram = projection @ projection.T if adapter.widens else projection.T @ projection
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-6)


def decomposed(free, transpose):
    """Gram-Schmidt on the columns: the same matrix by its definition."""
    columns = []
    for column in free.T:
        rest = column - sum((column @ other) * other for other in columns)
        columns.append(rest / np.linalg.norm(rest))
    result = np.stack(columns, axis=1)
    return result.T if transpose else result


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_the_matrix_and_its_gradient_equal_gram_schmidt(widths, random, finite_differences):
    adapter = built(*widths)
    free = random.normal(size=adapter.free.shape)
    adapter.set_weights([free])
    factors = random.normal(size=widths)
    with tf.GradientTape() as tape:
        projection = adapter.projection()
        value = tf.reduce_sum(projection * tf.cast(factors, "float32"))
    np.testing.assert_allclose(projection, decomposed(free, adapter.widens), atol=1e-5)
    expected = finite_differences(
        lambda matrix: np.sum(decomposed(matrix, adapter.widens) * factors), free
    )
    size = np.abs(expected).max()
    gradient = tape.gradient(value, adapter.free.value)
    np.testing.assert_allclose(gradient / size, expected / size, atol=1e-4)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_steps_keep_the_matrix_orthogonal(widths, jit_compile, random):
    adapter = built(*widths)
    assert_orthogonal(adapter)
    student, teacher = (random.normal(size=(8, width)).astype("float32") for width in widths)
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(adapter.trainable_variables)

    @tf.function(jit_compile=jit_compile)
    def step():
        with tf.GradientTape() as tape:
            projected, target = adapter(student, teacher, training=True)
            loss = tf.reduce_mean((projected - target) ** 2)
        optimizer.apply(tape.gradient(loss, [v.value for v in adapter.trainable_variables]))
        return loss

    before = np.array(adapter.projection())
    losses = [float(step()) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert np.abs(np.array(adapter.projection()) - before).max() > 1e-2
    assert_orthogonal(adapter)


def test_lengths_and_angles_of_a_narrower_student_stay(random):
    adapter = built(4, 6)
    student = random.normal(size=(5, 4)).astype("float32")
    projected, _ = adapter(student, np.ones((5, 6), "float32"))
    products = keras.ops.convert_to_numpy(projected @ tf.transpose(projected))
    np.testing.assert_allclose(products, student @ student.T, rtol=1e-4, atol=1e-5)


def test_maps_are_averaged_over_their_places(random):
    adapter = built(3, 5)
    maps = [random.normal(size=(2, 4, 4, width)).astype("float32") for width in (3, 5)]
    expected = adapter(*(feature.mean(axis=(1, 2)) for feature in maps))
    for actual, vector in zip(adapter(*maps), expected, strict=True):
        np.testing.assert_allclose(actual, vector, atol=1e-6)


def test_the_matrix_stays_exact_in_low_precision():
    adapter = built(4, 6, dtype="mixed_bfloat16")
    projected, _ = adapter(np.eye(4, dtype="float32"), np.ones((4, 6), "float32"))
    assert projected.dtype == tf.float32
    assert_orthogonal(adapter)
    np.testing.assert_allclose(projected, adapter.projection(), atol=1e-6)


def test_unknown_widths_are_refused():
    with pytest.raises(ValueError, match="OrthogonalProjector needs features with a known number"):
        built(None, 6)
