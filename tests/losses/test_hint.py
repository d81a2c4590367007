"""Tests of the feature losses against published reference values and float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


@pytest.fixture
def hint(average_pooled):
    """mean (f_s - f_t)², the larger map pooled to the smaller one, in float64."""

    def equation(teacher, student):
        if student.ndim == 4:
            size = [min(pair) for pair in zip(teacher.shape[1:3], student.shape[1:3], strict=True)]
            teacher, student = average_pooled(teacher, *size), average_pooled(student, *size)
        difference = student.astype("float64") - teacher
        return (difference**2).reshape(len(difference), -1).mean(axis=1)

    return equation


def test_hint_equals_the_reference_implementation(golden, gradient):
    reference = golden("hint_mse")
    loss, teacher, student = mr.losses.Hint(), reference["teacher"], reference["student"]
    np.testing.assert_allclose(loss(teacher, student), reference["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        gradient(lambda f: loss(teacher, f), student), reference["grad_student"], 1e-5, 1e-9
    )


@pytest.mark.parametrize(
    ("teacher_shape", "student_shape"),
    [
        ((2, 5), (2, 5)),
        ((2, 4, 5), (2, 4, 5)),
        ((2, 4, 4, 3), (2, 4, 4, 3)),
        ((2, 4, 4, 3), (2, 8, 8, 3)),
        ((2, 6, 6, 3), (2, 2, 2, 3)),
        ((2, 3, 3, 2), (2, 7, 7, 2)),
        ((2, 7, 5, 2), (2, 3, 8, 2)),
    ],
    ids=str,
)
def test_hint_equals_its_equation_for_maps_of_any_size(
    teacher_shape, student_shape, hint, random, gradient, finite_differences
):
    teacher = random.normal(size=teacher_shape).astype("float32")
    student = random.normal(size=student_shape).astype("float32")
    loss = mr.losses.Hint()
    np.testing.assert_allclose(loss.call(teacher, student), hint(teacher, student), rtol=1e-5)
    np.testing.assert_allclose(
        gradient(lambda f: loss.call(teacher, f), student),
        finite_differences(lambda f: hint(teacher, f).sum(), student),
        rtol=1e-4,
        atol=1e-6,
    )


def test_the_papers_hint_is_half_the_sum_of_squares(random, gradient):
    teacher, student = random.normal(size=(2, 3, 4, 4, 2)).astype("float32")
    loss = mr.losses.Hint(variant="paper")
    expected = 0.5 * ((student.astype("float64") - teacher) ** 2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-5)
    found = gradient(lambda f: loss.call(teacher, f), student)
    np.testing.assert_allclose(found, student - teacher, rtol=1e-5)
    assert mr.Feature(loss, at="a").weight == 1.0
    with pytest.raises(ValueError, match=r"variant must be one of \['reference', 'paper'\]. Rec"):
        mr.losses.Hint(variant="mean")


def test_hint_brings_its_weight_and_its_regressor():
    assert (mr.losses.Hint.default_weight, mr.losses.Hint.default_adapter) == (
        100.0,
        "conv_regressor",
    )


@pytest.mark.parametrize(
    ("teacher", "student"), [((2, 4, 4, 3), (2, 4, 4, 5)), ((2, 4, 4, 3), (2, 3)), ((2, 3), (2, 4))]
)
def test_hint_refuses_features_of_other_rank_or_channels(teacher, student):
    with pytest.raises(ValueError, match="Hint needs features of equal rank and number") as error:
        mr.losses.Hint().call(tf.zeros(teacher), tf.zeros(student))
    assert f"teacher of shape {teacher} and student of shape {student}" in str(error.value)
