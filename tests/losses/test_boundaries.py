"""AB and OFD against NumPy, neuron by neuron; several layers, margins and errors."""

import numpy as np
import pytest

import modreduce_keras as mr

SHAPE = (2, 3, 2, 4)


@pytest.fixture
def maps(random):
    return random.normal(size=SHAPE), random.normal(size=SHAPE)


def boundary(teacher, student, margin):
    total = 0.0
    for index in np.ndindex(teacher.shape):
        t, s = teacher[index], student[index]
        if t > 0 and s < margin:
            total += 0.003 * (margin - s) ** 2
        if t <= 0 and s > -margin:
            total += 0.003 * (margin + s) ** 2
    return total / len(teacher)


def partial(teacher, student):
    total = 0.0
    for index in np.ndindex(teacher.shape):
        t, s = teacher[index], student[index]
        if t > 0 or s > t:
            total += (s - t) ** 2
    return total / len(teacher)


def assert_equal_to_numpy(loss, value, teacher, student, gradient, finite_differences):
    np.testing.assert_allclose(loss(teacher, student), value(teacher, student), rtol=1e-5)
    actual = gradient(lambda s: loss(teacher, s), student)
    expected = finite_differences(lambda s: value(teacher, s), student)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0, 2.0])
def test_ab_equals_numpy(margin, maps, gradient, finite_differences):
    loss = mr.losses.AB(margin=margin)
    assert_equal_to_numpy(
        loss, lambda t, s: boundary(t, s, margin), *maps, gradient, finite_differences
    )
    assert loss.get_config()["margin"] == margin


def test_ofd_equals_numpy(maps, gradient, finite_differences):
    assert_equal_to_numpy(mr.losses.OFD(), partial, *maps, gradient, finite_differences)


@pytest.mark.parametrize("identifier", ["ab", "ofd"])
def test_each_earlier_layer_counts_half_of_the_next(identifier, random):
    shapes = [(2, 4, 4, 3), (2, 2, 2, 5), (2, 2, 2, 6)]
    teacher, student = ([random.normal(size=shape) for shape in shapes] for _ in range(2))
    loss = mr.losses.get(identifier)
    single = [loss.call(t, s).numpy() for t, s in zip(teacher, student, strict=True)]
    expected = single[0] / 4 + single[1] / 2 + single[2]
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-6)
    np.testing.assert_allclose(loss.call(teacher[2:], student[2:]), single[2], rtol=1e-6)


def test_ab_is_zero_beyond_the_margin_and_blind_to_the_size_of_responses(maps):
    teacher, student = maps
    beyond = np.where(teacher > 0, 1.0, -1.0)
    np.testing.assert_array_equal(mr.losses.AB().call(teacher, beyond), np.zeros(2))
    loss = mr.losses.AB()
    np.testing.assert_array_equal(loss.call(100 * teacher, student), loss.call(teacher, student))


def test_the_margin_of_ab_changes_in_place(maps):
    loss = mr.losses.AB(margin=1.0)
    loss.margin = 0.25
    np.testing.assert_allclose(loss(*maps), boundary(*maps, 0.25), rtol=1e-5)


def test_ab_is_trained_in_a_stage_of_its_own_and_ofd_is_not():
    assert mr.losses.AB.staged
    assert not mr.losses.OFD.staged


@pytest.mark.parametrize("identifier", ["ab", "ofd"])
def test_what_cannot_be_compared_is_refused(identifier, maps):
    loss = mr.losses.get(identifier)
    name, one = type(loss).__name__, maps[0]
    with pytest.raises(ValueError, match=f"{name} needs as many maps .*Received: 1 of the teache"):
        loss.call(one, [one, one])
    with pytest.raises(ValueError, match=f"{name} needs maps with equal numbers of channels"):
        loss.call(one, one[..., :2])
    with pytest.raises(ValueError, match=rf"{name} needs maps \(batch, height, width, channels\)"):
        loss.call(one[:, 0, 0], one[:, 0, 0])


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="margin of AB must be a number that is not negative"):
        mr.losses.AB(margin=-0.1)
