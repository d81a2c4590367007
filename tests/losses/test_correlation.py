"""DIST and CKA against float64 NumPy, gradients by finite differences."""

import numpy as np
import pytest
from scipy.special import softmax

import modreduce_keras as mr


def dist(teacher, student, temperature=4.0, inter=1.0, intra=1.0):
    """The equation, with NumPy's own correlation coefficients."""
    p_t, p_s = (softmax(z / temperature, axis=1) for z in (teacher, student))
    rows = [1 - np.corrcoef(t, s)[0, 1] for t, s in zip(p_t, p_s, strict=True)]
    columns = [1 - np.corrcoef(t, s)[0, 1] for t, s in zip(p_t.T, p_s.T, strict=True)]
    return temperature**2 * (inter * np.array(rows) + intra * np.mean(columns))


def cka(teacher, student):
    x, y = (f - f.mean(axis=0) for f in (teacher, student))
    norm = np.linalg.norm
    return np.full(len(x), 1 - norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ({}, (4.0, 1.0, 1.0)),
        ({"temperature": 1.5, "inter_weight": 0.3, "intra_weight": 2.0}, (1.5, 0.3, 2.0)),
    ],
)
def test_dist_equals_numpy(arguments, numbers, random, assert_equals_numpy):
    teacher, student = random.normal(size=(2, 9, 10))
    loss = mr.losses.DIST(**arguments)
    assert_equals_numpy(loss, lambda t, s: dist(t, s, *numbers), teacher, student, rtol=2e-5)


def test_cka_equals_numpy(random, assert_equals_numpy):
    teacher, student = random.normal(size=(9, 12)), random.normal(size=(9, 7))
    assert_equals_numpy(mr.losses.CKA(), cka, teacher, student, rtol=2e-5)


def test_dist_of_positions_correlates_each_class_over_all_that_are_kept(
    random, assert_equals_numpy
):
    teacher, student = random.normal(size=(2, 4, 3, 5))
    mask = random.random((4, 3)) < 0.6

    def expected(t, s):
        p_t, p_s = (softmax(z / 4.0, axis=-1) for z in (t["teacher"], s))
        intra = np.mean([1 - np.corrcoef(p_t[mask][:, c], p_s[mask][:, c])[0, 1] for c in range(5)])
        values = np.zeros(4)
        for sample, position in np.argwhere(mask):
            inter = 1 - np.corrcoef(p_t[sample, position], p_s[sample, position])[0, 1]
            values[sample] += 16.0 * (inter + intra) * 4 / mask.sum()
        return values

    y_true = {"teacher": teacher, "mask": mask}
    assert_equals_numpy(mr.losses.DIST(), expected, y_true, student, rtol=2e-5)


def test_dist_of_standardized_logits_equals_numpy(random, assert_equals_numpy):
    teacher, student = random.normal(size=(2, 6, 5))

    def standardized(z):
        return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)

    assert_equals_numpy(
        mr.losses.DIST(standardize=True, temperature=2.0),
        lambda t, s: dist(standardized(t), standardized(s), 2.0),
        teacher,
        student,
        rtol=1e-4,
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_of_huge_logits_is_exact(temperature):
    # One or two classes win each row and every class wins some: nothing is constant.
    classes, rows = np.arange(4), np.arange(12)[:, None]
    teacher = np.where((classes == rows % 4) | (classes == rows // 3), 500.0, -500.0)
    student = np.where((classes == rows % 4) | (classes == rows % 3), 500.0, -500.0)
    values = mr.losses.DIST(temperature=temperature).call(teacher, student)
    np.testing.assert_allclose(values, dist(teacher, student, temperature), rtol=1e-5, atol=1e-6)


def test_dist_ignores_scale_and_offset_of_probabilities():
    probabilities = np.array([[0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])
    smoothed = 0.5 * probabilities + 0.5 / 3
    values = mr.losses.DIST(temperature=1.0).call(np.log(probabilities), np.log(smoothed))
    np.testing.assert_allclose(values, np.zeros(3), atol=1e-6)


@pytest.mark.parametrize(("constant", "expected"), [("student", 2.0), ("both", 0.0)])
def test_dist_of_constant_probabilities(constant, expected, random):
    teacher = random.normal(size=(4, 5)) if constant == "student" else np.ones((4, 5))
    values = mr.losses.DIST(temperature=1.0).call(teacher, np.ones((4, 5)))
    np.testing.assert_allclose(values, np.full(4, expected), atol=1e-6)


def test_cka_ignores_rotation_and_scale(random):
    embeddings = random.normal(size=(8, 5))
    rotation, _ = np.linalg.qr(random.normal(size=(5, 5)))
    values = mr.losses.CKA().call(embeddings, 7.0 * embeddings @ rotation + 3.0)
    np.testing.assert_allclose(values, np.zeros(8), atol=1e-5)


@pytest.mark.parametrize("argument", ["inter_weight", "intra_weight"])
def test_negative_weights_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument} of DIST must be a number that is not neg"):
        mr.losses.DIST(**{argument: -1.0})


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_cka_does_not_see_an_offset_of_the_embeddings(offset, random):
    teacher = random.normal(size=(8, 6)).astype("float32")
    student = random.normal(size=(8, 5)).astype("float32")
    loss = mr.losses.CKA()
    expected = loss(teacher, student)
    np.testing.assert_allclose(loss(teacher, student + np.float32(offset)), expected, rtol=2e-3)
