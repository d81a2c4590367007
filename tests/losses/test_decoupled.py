"""DKD against float64 NumPy, its relation to KD, and its labels."""

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

import modreduce_keras as mr


def dkd(teacher, student, labels, temperature, target_weight, nontarget_weight):
    """The equation, class by class."""
    values = []
    for z_t, z_s, y in zip(teacher, student, labels, strict=True):
        p_t, p_s = softmax(z_t / temperature), softmax(z_s / temperature)
        binary = rel_entr([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]]).sum()
        others_t, others_s = np.delete(p_t, y), np.delete(p_s, y)
        others = rel_entr(others_t / others_t.sum(), others_s / others_s.sum()).sum()
        values.append(temperature**2 * (target_weight * binary + nontarget_weight * others))
    return np.array(values)


@pytest.fixture
def example(random):
    return random.normal(size=(7, 6)), random.normal(size=(7, 6)), random.integers(6, size=7)


@pytest.mark.parametrize(("temperature", "weights"), [(4.0, (1.0, 8.0)), (1.0, (0.5, 2.0))])
def test_values_and_gradient_equal_numpy(
    temperature, weights, example, gradient, finite_differences
):
    teacher, student, labels = example
    loss = mr.losses.DKD(
        temperature=temperature, target_weight=weights[0], nontarget_weight=weights[1]
    )
    y_true = {"teacher": teacher, "labels": labels}
    formula = dkd(teacher, student, labels, temperature, *weights)
    np.testing.assert_allclose(loss.call(y_true, student), formula, rtol=1e-5)
    expected = finite_differences(
        lambda s: np.mean(dkd(teacher, s, labels, temperature, *weights)), student
    )
    actual = gradient(lambda s: loss(y_true, s), student)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def test_kd_is_the_case_where_the_others_weigh_what_the_teacher_leaves_them(example):
    """KD = KL(b_t ‖ b_s) + (1 - p_t[y]) KL(p̂_t ‖ p̂_s), sample by sample."""
    teacher, student, labels = example
    y_true = {"teacher": teacher, "labels": labels}
    target = mr.losses.DKD(nontarget_weight=0.0).call(y_true, student).numpy()
    others = mr.losses.DKD(target_weight=0.0, nontarget_weight=1.0).call(y_true, student).numpy()
    left = 1 - softmax(teacher / 4.0, axis=1)[np.arange(7), labels]
    kd = mr.losses.KD(temperature=4.0).call(teacher, student)
    np.testing.assert_allclose(target + left * others, kd, rtol=1e-5)


@pytest.mark.parametrize("form", [lambda y: y[:, None], lambda y: np.eye(6)[y]])
def test_labels_may_be_a_column_or_one_hot(form, example):
    teacher, student, labels = example
    loss = mr.losses.DKD()
    by_index = loss.call({"teacher": teacher, "labels": labels}, student)
    given = loss.call({"teacher": teacher, "labels": form(labels)}, student)
    np.testing.assert_array_equal(given, by_index)


def test_labels_are_needed(example):
    with pytest.raises(ValueError, match=r"DKD needs labels: y_true must be a dict"):
        mr.losses.DKD().call(*example[:2])


@pytest.mark.parametrize("argument", ["target_weight", "nontarget_weight"])
def test_negative_weights_are_refused(argument):
    with pytest.raises(ValueError, match=f"{argument} of DKD must be a number that is not neg"):
        mr.losses.DKD(**{argument: -1.0})
