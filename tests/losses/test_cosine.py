"""Tests of the cosine loss against float64 NumPy."""

import numpy as np
import pytest

import modreduce_keras as mr


def one_minus_cosine(teacher, student):
    """1 - cos along the last axis, in float64."""
    teacher, student = teacher.astype("float64"), student.astype("float64")
    norms = np.linalg.norm(teacher, axis=-1) * np.linalg.norm(student, axis=-1)
    return 1.0 - (teacher * student).sum(-1) / norms


@pytest.mark.parametrize("shape", [(4, 7), (4, 5, 7), (2, 3, 4, 7)], ids=str)
def test_cosine_equals_numpy(shape, random, assert_equals_numpy):
    teacher, student = random.normal(size=(2, *shape)).astype("float32")

    def per_sample(teacher, student):
        values = one_minus_cosine(teacher, student)
        return values.reshape(len(values), -1).mean(axis=1)

    assert_equals_numpy(mr.losses.CosineDistance(), per_sample, teacher, student)


def test_the_mean_is_over_the_tokens_that_are_kept(random):
    teacher, student = random.normal(size=(2, 3, 4, 5)).astype("float32")
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], bool)
    values = mr.losses.CosineDistance().call({"teacher": teacher, "mask": mask}, student)
    expected = one_minus_cosine(teacher, student)[mask].mean()
    np.testing.assert_allclose(np.mean(values), expected, rtol=1e-5)


def test_what_is_nearly_parallel_is_exact(random):
    """1 - cos itself would be rounding: 1e-9 is less than what float32 keeps beside 1."""
    teacher = random.normal(size=(3, 64)).astype("float32")
    student = (teacher + 1e-4 * random.normal(size=(3, 64))).astype("float32")
    values = mr.losses.CosineDistance().call(teacher, student)
    np.testing.assert_allclose(values, one_minus_cosine(teacher, student), rtol=2e-2)


def test_zero_has_no_direction():
    zero, some = np.zeros((1, 3)), np.ones((1, 3))
    pairs = [(zero, zero), (zero, some), (some, zero), (some, -2.0 * some)]
    values = [float(mr.losses.CosineDistance()(*pair)) for pair in pairs]
    np.testing.assert_allclose(values, [0.0, 1.0, 1.0, 2.0], rtol=1e-6)


def test_other_widths_are_refused_and_the_adapter_named():
    with pytest.raises(
        ValueError, match=r"CosineDistance needs .*equal shapes.*'token_projection'"
    ):
        mr.losses.CosineDistance().call(np.ones((2, 5, 4)), np.ones((2, 5, 3)))
