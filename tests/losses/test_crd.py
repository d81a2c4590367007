"""CRD's loss on log ratios: values worked out one pair at a time, and extremes."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def crd(teacher, student):
    """Returns the values per sample from probabilities, pair by pair, in float64; n cancels."""
    negatives, n = student.shape[1] - 1, 7.0
    values = np.zeros(len(student))
    for row in range(len(student)):
        for ratios in (student[row], teacher[row]):
            probabilities = np.exp(np.asarray(ratios, "float64")) / n
            noise = negatives / n
            values[row] -= np.log(probabilities[0] / (probabilities[0] + noise))
            for negative in probabilities[1:]:
                values[row] -= np.log(noise / (negative + noise))
    return values


@pytest.fixture
def ratios(random):
    return [2.0 * random.normal(size=(3, 6)).astype("float32") for _ in range(2)]


def test_crd_equals_numpy(ratios, gradient, finite_differences):
    teacher, student = ratios
    loss = mr.losses.CRD()
    np.testing.assert_allclose(loss.call(teacher, student), crd(teacher, student), rtol=1e-5)
    to_student = finite_differences(lambda s: crd(teacher, s).sum(), student)
    np.testing.assert_allclose(
        gradient(lambda s: loss.call(teacher, s), student), to_student, atol=1e-5
    )
    to_teacher = finite_differences(lambda t: crd(t, student).sum(), teacher)
    np.testing.assert_allclose(
        gradient(lambda t: loss.call(t, student), teacher), to_teacher, atol=1e-5
    )


def test_crd_is_exact_for_ratios_of_500():
    # K = 2: a positive at -500 costs 500 + log 2, a negative at 500 costs 500 - log 2.
    student = np.array([[-500.0, -500.0, 500.0]])
    teacher = np.array([[500.0, -500.0, -500.0]])
    value = mr.losses.CRD().call(teacher, student)
    np.testing.assert_allclose(value, [1000.0], rtol=1e-6)


def test_a_very_negative_ratio_leaves_its_pair_out(ratios):
    teacher, student = (np.array(side) for side in ratios)
    student[:, 3] = teacher[:, 3] = -1e9
    others = [0, 1, 2, 4, 5]
    # K stays the number of columns: what is left out counts as drawn.
    expected = crd(teacher, student)
    np.testing.assert_allclose(mr.losses.CRD().call(teacher, student), expected, rtol=1e-5)
    shift = np.log(5.0) - np.log(4.0)
    fewer = crd(teacher[:, others] - shift, student[:, others] - shift)
    np.testing.assert_allclose(expected, fewer, rtol=1e-9)


def test_without_negatives_the_value_is_finite():
    value = mr.losses.CRD().call(tf.zeros((2, 1)), tf.zeros((2, 1)))
    np.testing.assert_allclose(value, 2 * [2 * np.log(2.0)], rtol=1e-6)


@pytest.mark.parametrize("shapes", [((2, 5), (2, 6)), ((2, 5, 1), (2, 5, 1)), ((2,), (2,))])
def test_shapes_that_are_not_log_ratios_are_refused(shapes):
    with pytest.raises(ValueError, match=r"CRD needs log density ratios .* Received: teacher of"):
        mr.losses.CRD().call(*map(np.ones, shapes))


def test_defaults():
    loss = mr.losses.CRD
    assert (loss.default_weight, loss.default_adapter) == (0.8, "contrastive_memory")
    assert loss.teacher_learns
