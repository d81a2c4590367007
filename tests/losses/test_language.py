"""Losses of language models against float64 NumPy: reverse KL, Jensen-Shannon and skew KL."""

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

import modreduce_keras as mr

SHAPE = (3, 4, 7)
CASES = {
    "reverse_kl": [{}, {"temperature": 2.5}, {"standardize": True}],
    "gkd": [
        *({"beta": beta, "temperature": 2.0} for beta in (0.0, 0.1, 0.5, 0.9, 1.0)),
        {"standardize": True},
    ],
    "skew_kl": [
        *({"alpha": alpha, "reverse": reverse} for alpha in (0.0, 0.1, 0.8) for reverse in (0, 1)),
        {"temperature": 3.0, "reverse": True, "standardize": True},
    ],
}


def equation(identifier, teacher, student, temperature=1.0, standardize=False, **given):
    """The papers' equations in float64, the mean over the positions."""
    sides = []
    for logits in (np.asarray(teacher, "float64"), np.asarray(student, "float64")):
        if standardize:
            logits = logits - logits.mean(axis=-1, keepdims=True)
            logits = logits / logits.std(axis=-1, keepdims=True)
        sides.append(log_softmax(logits / temperature, axis=-1))
    values = temperature**2 * {
        "reverse_kl": lambda t, s: kl(s, t),
        "gkd": jensen_shannon,
        "skew_kl": skew,
    }[identifier](*sides, **given)
    return values.reshape(len(values), -1).mean(axis=1)


def kl(first, second):
    return (np.exp(first) * (first - second)).sum(axis=-1)


def mixed(share, first, second):
    """log(share p + (1 - share) q), which scipy sums in log space."""
    shares = np.array([share, 1 - share]).reshape(-1, *[1] * first.ndim)
    return logsumexp(np.stack([first, second]), b=shares, axis=0)


def jensen_shannon(teacher, student, beta=0.5):
    if beta in (0, 1):
        return kl(student, teacher) if beta else kl(teacher, student)
    mixture = mixed(beta, teacher, student)
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def skew(teacher, student, alpha=0.1, reverse=False):
    first, second = (student, teacher) if reverse else (teacher, student)
    return kl(first, mixed(alpha, first, second))


def check(identifier, arguments, random, assert_equals_numpy):
    teacher, student = 2.0 * random.normal(size=(2, *SHAPE)).astype("float32")
    arguments = {n: bool(v) if n == "reverse" else v for n, v in arguments.items()}
    assert_equals_numpy(
        mr.losses.get(identifier, **arguments),
        lambda t, s: equation(identifier, t, s, **arguments),
        teacher,
        student,
        rtol=1e-4,
    )


@pytest.mark.parametrize("arguments", CASES["reverse_kl"], ids=str)
def test_reverse_kl_equals_numpy(arguments, random, assert_equals_numpy):
    check("reverse_kl", arguments, random, assert_equals_numpy)


@pytest.mark.parametrize("arguments", CASES["gkd"], ids=str)
def test_gkd_equals_numpy(arguments, random, assert_equals_numpy):
    check("gkd", arguments, random, assert_equals_numpy)


@pytest.mark.parametrize("arguments", CASES["skew_kl"], ids=str)
def test_skew_kl_equals_numpy(arguments, random, assert_equals_numpy):
    check("skew_kl", arguments, random, assert_equals_numpy)


@pytest.mark.parametrize("identifier", CASES)
@pytest.mark.parametrize("classes", [7, 1500], ids=["few", "many"])
def test_huge_logits_and_many_classes_are_exact(identifier, classes, random, gradient):
    teacher, student = random.choice([-500.0, 500.0], size=(2, 6, classes)).astype("float32")
    teacher += random.normal(size=teacher.shape).astype("float32")
    loss = mr.losses.get(identifier)
    expected = equation(identifier, teacher, student)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-4)
    assert np.isfinite(gradient(lambda z: loss.call(teacher, z), student)).all()


def test_the_ends_of_gkd_are_the_limits_of_the_paper(random):
    """JSD(β) / β goes to the forward KL, and JSD(β) / (1 - β) to the reverse one."""
    teacher, student = random.normal(size=(2, 5, 6))

    def value(beta):
        return np.asarray(mr.losses.GKD(beta=beta).call(teacher, student))

    near = 1e-3
    np.testing.assert_allclose(value(near) / near, value(0), rtol=2e-2)
    np.testing.assert_allclose(value(1 - near) / near, value(1), rtol=2e-2)
    kd, reverse = mr.losses.KD(temperature=1.0), mr.losses.ReverseKL()
    np.testing.assert_array_equal(value(0), kd.call(teacher, student))
    np.testing.assert_array_equal(value(1), reverse.call(teacher, student))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: mr.losses.GKD(beta=1.1), r"beta must be a number from 0 to 1.*beta=1\.1"),
        (lambda: mr.losses.GKD(beta=None), "beta must be a number from 0 to 1"),
        (lambda: mr.losses.SkewKL(alpha=1.0), "alpha must be a number from 0 to below 1"),
        (lambda: mr.losses.SkewKL(alpha="0.1"), "alpha must be a number from 0 to below 1"),
        (lambda: mr.losses.SkewKL(reverse=1), "reverse must be True or False"),
        (lambda: mr.losses.ReverseKL(temperature=0), "temperature of ReverseKL must be a positive"),
    ],
)
def test_arguments_out_of_range_are_refused(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()
