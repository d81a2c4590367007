"""SemCKD and ReviewKD on their own: against NumPy, and what they refuse."""

import numpy as np
import pytest

import modreduce_keras as mr

SHAPES = [(2, 2, 3), (1, 2, 2), (2, 2, 3), (2, 1, 1), (2, 2, 3), (1, 1, 2)]


@pytest.fixture
def pairs(random):
    """Two layers of the student against three of the teacher, and their scores."""
    teacher, student = ([random.normal(size=(3, *shape)) for shape in SHAPES] for _ in range(2))
    return teacher, [*student, random.normal(size=(3, 2, 3))]


def semckd(teacher, student):
    """The equation, sample by sample and pair by pair."""
    values = np.zeros(3)
    for sample in range(3):
        for i in range(2):
            scores = student[-1][sample, i]
            weights = np.exp(scores) / np.exp(scores).sum()
            for j in range(3):
                pair = 3 * i + j
                difference = student[pair][sample] - teacher[pair][sample]
                values[sample] += weights[j] * (difference**2).mean() / 2
    return values


def test_semckd_equals_numpy(pairs, assert_equals_numpy):
    assert_equals_numpy(mr.losses.SemCKD(), semckd, *pairs)


def test_semckd_of_one_layer_each_is_the_hint(pairs):
    teacher, student = pairs[0][0], pairs[1][0]
    scores = np.full((3, 1, 1), -7.0)
    value = mr.losses.SemCKD().call([teacher], [student, scores])
    np.testing.assert_allclose(value, mr.losses.Hint().call(teacher, student), rtol=1e-6)


def test_semckd_without_scores_or_with_other_maps_is_refused(pairs):
    teacher, student = pairs
    loss = mr.losses.SemCKD()
    expected = r"SemCKD needs one map of each side per pair .*adapter='layer_attention'"
    for taught, learnt in (
        (teacher, student[:-1]),
        (teacher[1:], student),
        (teacher, [*student[:-1], student[-1][:, :1]]),
        (teacher[0], student[0]),
    ):
        with pytest.raises(ValueError, match=expected):
            loss.call(taught, learnt)
    with pytest.raises(ValueError, match="SemCKD needs equal shapes in each pair"):
        loss.call(teacher[::-1], student)


STAGES = [(5, 5, 2), (4, 6, 1), (3, 2, 2), (1, 1, 3)]


@pytest.fixture
def stages(random):
    return tuple([random.normal(size=(2, *shape)) for shape in STAGES] for _ in range(2))


def test_reviewkd_equals_numpy(stages, assert_equals_numpy, average_pooled):
    # Which sizes are below the shorter side, as the published loop skips the others.
    sizes = [(4, 2, 1), (2, 1), (1,), ()]

    def expected(teacher, student):
        values = np.zeros(2)
        for taught, learnt, smaller in zip(teacher, student, sizes, strict=True):
            total, weights = ((learnt - taught) ** 2).mean(axis=(1, 2, 3)), [1.0]
            for size in smaller:
                weights.append(weights[-1] / 2)
                both = (average_pooled(maps, size, size) for maps in (learnt, taught))
                difference = np.subtract(*both)
                total = total + weights[-1] * (difference**2).mean(axis=(1, 2, 3))
            values += total / sum(weights)
        return values

    assert_equals_numpy(mr.losses.ReviewKD(), expected, *stages)


def test_reviewkd_of_other_numbers_of_stages_or_shapes_is_refused(stages):
    teacher, student = stages
    loss = mr.losses.ReviewKD()
    for taught, learnt in ((teacher, student[1:]), (teacher[0], student[0])):
        with pytest.raises(ValueError, match="ReviewKD needs as many stages of the student as of"):
            loss.call(taught, learnt)
    vectors = [np.ones((2, 5))]
    for taught, learnt in ((teacher, student[::-1]), (vectors, vectors)):
        with pytest.raises(ValueError, match=r"ReviewKD needs maps .* of equal shape in each"):
            loss.call(taught, learnt)
