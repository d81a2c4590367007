"""ICKD against NumPy, pair of channels by pair of channels; what it ignores and refuses."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def maps(random):
    return random.normal(size=(2, 3, 3, 4)), random.normal(size=(2, 3, 3, 4))


def correlation(maps):
    """Returns the correlations of one sample's channels, each row at unit length."""
    channels = [maps[..., c].ravel() for c in range(maps.shape[-1])]
    rows = [np.array([np.dot(a, b) for b in channels]) for a in channels]
    return [row / np.sqrt(np.sum(row**2)) for row in rows]


def ickd(teacher, student):
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        for row_t, row_s in zip(correlation(t), correlation(s), strict=True):
            total += np.sum((row_s - row_t) ** 2)
    return total / (len(teacher) * teacher.shape[-1])


def test_ickd_equals_numpy(maps, gradient, finite_differences):
    teacher, student = maps
    loss = mr.losses.ICKD()
    np.testing.assert_allclose(loss(teacher, student), ickd(teacher, student), rtol=1e-5)
    actual = gradient(lambda s: loss(teacher, s), student)
    expected = finite_differences(lambda s: ickd(teacher, s), student)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def test_ickd_equals_numpy_where_the_maps_are_pooled(maps, random, average_pooled):
    larger = random.normal(size=(2, 7, 5, 4))
    expected = ickd(average_pooled(larger, 3, 3), maps[1])
    np.testing.assert_allclose(mr.losses.ICKD()(larger, maps[1]), expected, rtol=1e-5)


def test_ickd_ignores_the_scale_and_where_the_channels_respond(maps, random):
    teacher, student = maps
    order = random.permutation(9)
    moved = student.reshape(2, 9, 4)[:, order].reshape(2, 3, 3, 4)
    loss = mr.losses.ICKD()
    expected = loss.call(teacher, student)
    np.testing.assert_allclose(loss.call(teacher, 30.0 * moved), expected, rtol=1e-5)


def test_what_cannot_be_compared_is_refused(maps):
    teacher, student = maps
    with pytest.raises(ValueError, match="ICKD needs maps with equal numbers of channels"):
        mr.losses.ICKD().call(teacher, student[..., :2])
    with pytest.raises(ValueError, match=r"ICKD needs maps \(batch, height, width, channels\)"):
        mr.losses.ICKD().call(teacher[:, 0, 0], student[:, 0, 0])
