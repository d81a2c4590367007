"""DKD against float64 NumPy, its relation to KD, and its labels."""

import numpy as np
import pytest
from scipy.special import logsumexp, rel_entr, softmax

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


def test_dkd_of_standardized_logits_equals_numpy(example, assert_equals_numpy):
    teacher, student, labels = example

    def standardized(z):
        return (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)

    assert_equals_numpy(
        mr.losses.DKD(standardize=True, temperature=2.0),
        lambda t, s: dkd(standardized(t["teacher"]), standardized(s), labels, 2.0, 1.0, 8.0),
        {"teacher": teacher, "labels": labels},
        student,
        rtol=1e-4,
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_of_huge_logits_is_exact(temperature, random, gradient, finite_differences):
    """Small differences between the others beside a label at ±500, and ±500 anywhere."""
    labels = random.integers(6, size=8)
    small = random.normal(size=(2, 8, 6)).astype("float32")
    huge = random.choice([-500.0, 500.0], size=(2, 8, 6))
    beside = np.where(np.eye(6)[labels] > 0, huge, -500.0)
    teacher, student = (small + np.where(np.arange(8)[:, None] < 5, beside, huge)).astype("float32")
    loss = mr.losses.DKD(temperature=temperature)
    y_true = {"teacher": teacher, "labels": labels}
    expected = log_space_dkd(teacher, student, labels, temperature, 1.0, 8.0)
    np.testing.assert_allclose(loss.call(y_true, student), expected, rtol=2e-6)
    slopes = finite_differences(
        lambda s: log_space_dkd(teacher, s, labels, temperature, 1.0, 8.0).sum(), student, step=1e-3
    )
    actual = gradient(lambda s: loss.call(y_true, s), student)
    np.testing.assert_allclose(actual, slopes, atol=1e-5 * np.abs(slopes).max())


def log_space_dkd(teacher, student, labels, temperature, target_weight, nontarget_weight):
    """The equation in float64 log probabilities, for logits whose probabilities underflow."""

    def kl(log_t, log_s):
        return sum(np.exp(a) * (a - b) for a, b in zip(log_t, log_s, strict=True))

    values = []
    for z_t, z_s, y in zip(teacher, student, labels, strict=True):
        binary, others = [], []
        for z in (np.float64(z_t) / temperature, np.float64(z_s) / temperature):
            rest = np.delete(z, y)
            binary.append(np.array([z[y], logsumexp(rest)]) - logsumexp(z))
            others.append(rest - logsumexp(rest))
        parts = target_weight * kl(*binary) + nontarget_weight * kl(*others)
        values.append(temperature**2 * parts)
    return np.array(values)


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


def nkd(teacher, student, labels, temperature=1.0, nontarget_weight=1.5):
    """The equation, class by class, in log probabilities."""
    values = []
    for z_t, z_s, y in zip(*map(np.float64, (teacher, student)), labels, strict=True):
        target = -np.exp(z_t[y] - logsumexp(z_t)) * (z_s[y] - logsumexp(z_s))
        rest_t, rest_s = (np.delete(z, y) / temperature for z in (z_t, z_s))
        others = 0.0
        for a, b in zip(rest_t - logsumexp(rest_t), rest_s - logsumexp(rest_s), strict=True):
            others -= np.exp(a) * b
        values.append(target + nontarget_weight * temperature**2 * others)
    return np.array(values)


@pytest.mark.parametrize(
    "arguments", [{}, {"temperature": 3.0}, {"temperature": 0.5, "nontarget_weight": 0.2}], ids=str
)
def test_nkd_equals_numpy(arguments, example, assert_equals_numpy):
    teacher, student, labels = example
    assert_equals_numpy(
        mr.losses.NKD(**arguments),
        lambda t, s: nkd(t["teacher"], s, labels, **arguments),
        {"teacher": teacher, "labels": labels},
        student,
    )


def test_nkd_of_huge_logits_is_exact(random):
    teacher, student = random.choice([-500.0, 500.0], size=(2, 8, 6)).astype("float32")
    labels = random.integers(6, size=8)
    values = mr.losses.NKD(temperature=2.0).call({"teacher": teacher, "labels": labels}, student)
    np.testing.assert_allclose(values, nkd(teacher, student, labels, 2.0), rtol=2e-6)


def test_nkd_of_a_certain_teacher_is_the_cross_entropy_of_the_labels(example):
    _, student, labels = example
    certain = 100.0 * np.eye(6)[labels]
    values = mr.losses.NKD(nontarget_weight=0.0).call(
        {"teacher": certain, "labels": labels}, student
    )
    expected = -np.log(softmax(student, axis=1)[np.arange(7), labels])
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_nkd_slopes_vanish_for_the_others_where_the_student_equals_the_teacher(example, gradient):
    """A cross-entropy is least, and not zero, at its target."""
    teacher, _, labels = example
    y_true = {"teacher": teacher, "labels": labels}
    target, both = (
        gradient(lambda z, w=w: mr.losses.NKD(nontarget_weight=w).call(y_true, z), teacher)
        for w in (0.0, 1.5)
    )
    np.testing.assert_allclose(both, target, atol=1e-6)


def test_nkd_defaults_to_the_papers_numbers():
    config = mr.losses.NKD().get_config()
    assert (config["nontarget_weight"], config["temperature"]) == (1.5, 1.0)


@pytest.mark.parametrize(("argument", "value"), [("nontarget_weight", -1.0), ("temperature", 0.0)])
def test_numbers_of_nkd_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} of NKD must be a"):
        mr.losses.NKD(**{argument: value})


def test_nkd_needs_labels(example):
    with pytest.raises(ValueError, match=r"NKD needs labels: y_true must be a dict"):
        mr.losses.NKD().call(*example[:2])
