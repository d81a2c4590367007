"""Multi-level logit distillation against float64 NumPy, and what it refuses."""

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

import modreduce_keras as mr


def multi_level(teacher, student, temperatures=(2, 3, 4, 5, 6)):
    """The equation, pair by pair of samples and of classes."""
    batch, classes = student.shape
    values = np.zeros(batch)
    for temperature in temperatures:
        t, s = (softmax(z / temperature, axis=1) for z in (teacher, student))
        values += temperature**2 * rel_entr(t, s).sum(axis=1)
        for i in range(batch):
            values[i] += sum((s[i] @ s[j] - t[i] @ t[j]) ** 2 for j in range(batch))
        for k in range(classes):
            for m in range(classes):
                values += (s[:, k] @ s[:, m] - t[:, k] @ t[:, m]) ** 2 / classes
    return values


@pytest.mark.parametrize("temperatures", [(2, 3, 4, 5, 6), (1.0,), (0.5, 8.0)])
def test_multi_level_equals_numpy(temperatures, random, assert_equals_numpy):
    teacher, student = 2.0 * random.normal(size=(2, 5, 4))
    assert_equals_numpy(
        mr.losses.MultiLevel(temperatures=temperatures),
        lambda t, s: multi_level(t, s, temperatures),
        teacher,
        student,
    )


def test_multi_level_mean_over_the_batch_has_the_papers_normalization(random):
    """1/B ‖G_s - G_t‖² and 1/C ‖M_s - M_t‖², beside the mean divergence."""
    teacher, student = random.normal(size=(2, 8, 5))
    t, s = softmax(teacher, axis=1), softmax(student, axis=1)
    expected = (
        rel_entr(t, s).sum(axis=1).mean()
        + np.linalg.norm(s @ s.T - t @ t.T) ** 2 / 8
        + np.linalg.norm(s.T @ s - t.T @ t) ** 2 / 5
    )
    value = mr.losses.MultiLevel(temperatures=[1.0])(teacher, student)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_multi_level_of_huge_logits_is_exact(random):
    teacher, student = random.choice([-500.0, 500.0], size=(2, 6, 5))
    smaller = np.where(student > 0, 400.0, -100.0)
    expected = multi_level(teacher, smaller)
    np.testing.assert_allclose(mr.losses.MultiLevel().call(teacher, smaller), expected, rtol=1e-6)


def test_temperatures_are_kept(round_trip):
    assert mr.losses.MultiLevel().get_config()["temperatures"] == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert round_trip(mr.losses.MultiLevel(temperatures=(1, 7.0))).temperatures == [1, 7.0]


@pytest.mark.parametrize(
    "temperatures", [[], (), 4.0, None, [0.0], [2.0, -1.0], ["2"], [float("nan")], [float("inf")]]
)
def test_temperatures_that_make_no_sense_are_refused(temperatures):
    with pytest.raises(ValueError, match=r"temperatures must be a list of positive numbers, such"):
        mr.losses.MultiLevel(temperatures=temperatures)


def test_axes_between_batch_and_classes_are_refused():
    with pytest.raises(ValueError, match=r"MultiLevel needs logits \(batch, classes\), for it"):
        mr.losses.MultiLevel().call(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
