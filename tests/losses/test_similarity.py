"""SP and PKT against float64 NumPy at other sizes than the reference values."""

import numpy as np
import pytest

import modreduce_keras as mr


def sp(teacher, student):
    def similarities(f):
        gram = f @ f.T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    return ((similarities(student) - similarities(teacher)) ** 2).sum(axis=1) / len(teacher)


def pkt(teacher, student):
    def neighbours(f):
        unit = f / np.linalg.norm(f, axis=1, keepdims=True)
        likely = (unit @ unit.T + 1) / 2
        return likely / likely.sum(axis=1, keepdims=True)

    t, s = neighbours(teacher), neighbours(student)
    return (t * np.log((t + 1e-7) / (s + 1e-7))).mean(axis=1)


@pytest.mark.parametrize(("identifier", "formula"), [("sp", sp), ("pkt", pkt)])
def test_values_and_gradient_equal_numpy(identifier, formula, random, gradient, finite_differences):
    teacher, student = random.normal(size=(5, 9)), random.normal(size=(5, 4))
    loss = mr.losses.get(identifier)
    expected = formula(teacher, student)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-4, atol=1e-7)
    expected = finite_differences(lambda s: np.mean(formula(teacher, s)), student)
    actual = gradient(lambda s: loss(teacher, s), student)
    np.testing.assert_allclose(actual, expected, atol=2e-4 * np.abs(expected).max())


def test_pkt_is_finite_for_opposite_embeddings(random, gradient):
    loss = mr.losses.PKT()
    for _ in range(50):
        row = random.normal(size=(1, 512)).astype("float32")
        teacher = random.normal(size=(2, 512)).astype("float32")
        student = np.concatenate([row, -row])
        for sides in ((teacher, student), (student, teacher)):
            assert np.isfinite(loss.call(*sides)).all()
        assert np.isfinite(gradient(lambda f, t=teacher: loss.call(t, f), student)).all()
