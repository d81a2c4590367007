"""MGD against NumPy, number by number, and what it refuses."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def maps(random):
    return random.normal(size=(2, 3, 3, 4)), random.normal(size=(2, 3, 3, 4))


def mgd(teacher, student):
    squares = [(student[i] - teacher[i]) ** 2 for i in np.ndindex(teacher.shape)]
    return sum(squares) / len(teacher)


def test_mgd_equals_numpy(maps, gradient, finite_differences):
    teacher, student = maps
    loss = mr.losses.MGD()
    np.testing.assert_allclose(loss(teacher, student), mgd(teacher, student), rtol=1e-6)
    actual = gradient(lambda s: loss(teacher, s), student)
    expected = finite_differences(lambda s: mgd(teacher, s), student)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_mgd_equals_numpy_where_the_teacher_is_pooled(maps, random, average_pooled):
    larger = random.normal(size=(2, 5, 6, 4))
    expected = mgd(average_pooled(larger, 3, 3), maps[1])
    np.testing.assert_allclose(mr.losses.MGD()(larger, maps[1]), expected, rtol=1e-5)


def test_what_cannot_be_compared_is_refused(maps):
    teacher, student = maps
    with pytest.raises(ValueError, match="MGD needs maps with equal numbers of channels"):
        mr.losses.MGD().call(teacher, student[..., :2])
    with pytest.raises(ValueError, match=r"MGD needs maps \(batch, height, width, channels\)"):
        mr.losses.MGD().call(teacher[:, 0, 0], student[:, 0, 0])
