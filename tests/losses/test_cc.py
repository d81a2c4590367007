"""Correlation congruence: both variants, their split over the samples, options and errors."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def pair(random):
    return random.normal(size=(5, 4)), random.normal(size=(5, 3))


def cc(teacher, student, gamma=0.4):
    """Returns the paper's values per sample, pair by pair, in float64."""
    batch = len(student)
    values = np.zeros(batch)
    for i in range(batch):
        for j in range(batch):
            kernels = []
            for side in (student, teacher):
                a, b = side[i] / np.sqrt(side[i] @ side[i]), side[j] / np.sqrt(side[j] @ side[j])
                kernels.append(np.exp(-gamma * ((a - b) ** 2).sum()))
            values[i] += (kernels[0] - kernels[1]) ** 2 / batch
    return values


@pytest.mark.parametrize("gamma", [0.4, 1.5])
def test_cc_equals_numpy(gamma, pair, gradient, finite_differences):
    teacher, student = pair
    loss = mr.losses.CC(gamma=gamma)
    np.testing.assert_allclose(
        loss.call(teacher, student), cc(teacher, student, gamma), rtol=1e-4, atol=1e-7
    )
    expected = finite_differences(lambda s: cc(teacher, s, gamma).sum(), student)
    np.testing.assert_allclose(
        gradient(lambda s: loss.call(teacher, s), student), expected, atol=1e-5
    )
    expected = finite_differences(lambda t: cc(t, student, gamma).sum(), teacher)
    np.testing.assert_allclose(
        gradient(lambda t: loss.call(t, student), teacher), expected, atol=1e-5
    )


def test_cc_reference_counts_half_of_a_product_for_each_of_its_samples(random):
    teacher, student = random.normal(size=(2, 4, 3))
    delta = np.abs(student - teacher)
    values = np.zeros(4)
    for i in range(3):
        for sample in (i, i + 1):
            values[sample] += 4 / 3 * (delta[i] @ delta[i + 1]) / 2
    loss = mr.losses.CC(variant="reference")
    np.testing.assert_allclose(loss.call(teacher, student), values, rtol=1e-5)
    np.testing.assert_allclose(loss.call(teacher[::-1], student[::-1]), values[::-1], rtol=1e-5)
    np.testing.assert_array_equal(loss.call(teacher[:1], student[:1]), [0.0])


def test_lengths_of_embeddings_do_not_matter_in_the_paper(pair):
    teacher, student = pair
    loss = mr.losses.CC()
    expected = loss.call(teacher, student)
    np.testing.assert_allclose(loss.call(0.1 * teacher, 30.0 * student), expected, rtol=1e-4)


def test_cc_reference_needs_embeddings_of_equal_size(pair):
    message = "CC needs embeddings of equal size, as adapter='paired_embedding' makes them"
    with pytest.raises(ValueError, match=message):
        mr.losses.CC(variant="reference").call(*pair)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "code"}, r"variant must be one of \['paper', 'reference'\]. Received"),
        ({"gamma": 0.0}, "gamma of CC must be a positive number"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.losses.CC(**arguments)


def test_config_and_weights_of_both_variants(round_trip):
    again = round_trip(mr.losses.CC(variant="reference", gamma=0.7))
    assert (again.variant, again.default_weight) == ("reference", 0.02)
    np.testing.assert_allclose(float(again.gamma), 0.7, rtol=1e-6)
    assert mr.losses.CC().default_weight == 100.0
