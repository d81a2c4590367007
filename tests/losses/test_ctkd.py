"""CTKD against float64 NumPy: value, gradient of the temperature, bounds and errors."""

import numpy as np
import pytest
from scipy.special import expit, rel_entr, softmax

import modreduce_keras as mr


def ctkd(teacher, student, minimum=1.0, span=20.0):
    logits, raw = student
    values = []
    for z_t, z_s, r in zip(teacher, logits, raw[:, 0], strict=True):
        temperature = minimum + span * expit(r)
        divergence = rel_entr(softmax(z_t / temperature), softmax(z_s / temperature)).sum()
        values.append(temperature**2 * divergence)
    return np.array(values)


@pytest.fixture
def example(random):
    """The teacher's logits and the student's side, with a raw temperature for each sample."""
    teacher, logits = random.normal(size=(2, 6, 5)).astype("float32")
    return teacher, [logits, random.normal(size=(6, 1)).astype("float32")]


@pytest.mark.parametrize("arguments", [{}, {"minimum": 0.5, "span": 3.0}], ids=str)
def test_ctkd_equals_numpy(arguments, example, assert_equals_numpy):
    """Values, and the gradients to the logits and to the raw temperature."""
    assert_equals_numpy(
        mr.losses.CTKD(**arguments), lambda t, s: ctkd(t, s, **arguments), *example, rtol=1e-4
    )


@pytest.mark.parametrize(("raw", "temperature"), [(-1e4, 1.0), (0.0, 11.0), (1e4, 21.0)])
def test_ctkd_is_kd_at_a_temperature_within_its_bounds(raw, temperature, example):
    teacher, (logits, _) = example
    values = mr.losses.CTKD().call(teacher, [logits, np.full((6, 1), raw)])
    expected = mr.losses.KD(temperature=temperature).call(teacher, logits)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_ctkd_without_a_span_has_the_lowest_temperature_always(example, gradient):
    teacher, (logits, raw) = example
    loss = mr.losses.CTKD(minimum=4.0, span=0.0)
    expected = mr.losses.KD(temperature=4.0).call(teacher, logits)
    np.testing.assert_allclose(loss.call(teacher, [logits, raw]), expected, rtol=1e-6)
    slopes = gradient(lambda r: loss.call(teacher, [logits, r]), raw)
    np.testing.assert_array_equal(slopes, np.zeros((6, 1)))


def test_ctkd_of_huge_logits_is_exact(random):
    teacher, logits = random.choice([-500.0, 500.0], size=(2, 6, 5))
    loss, raw = mr.losses.CTKD(), np.zeros((6, 1))
    expected = mr.losses.KD(temperature=11.0).call(teacher, logits)
    np.testing.assert_allclose(loss.call(teacher, [logits, raw]), expected, rtol=1e-6)


@pytest.mark.parametrize(("argument", "value"), [("minimum", 0.0), ("span", -1.0)])
def test_numbers_of_ctkd_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} of CTKD must be a"):
        mr.losses.CTKD(**{argument: value})


def test_ctkd_without_a_raw_temperature_is_refused(example):
    teacher, (logits, raw) = example
    message = r"CTKD needs the student's side to be \[logits, raw temperature\], as the adapter"
    for student in (logits, [logits], [logits, raw, raw]):
        with pytest.raises(ValueError, match=message):
            mr.losses.CTKD().call(teacher, student)


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 1, 1)])
def test_ctkd_with_a_raw_temperature_of_another_shape_is_refused(shape, example):
    teacher, (logits, _) = example
    with pytest.raises(ValueError, match=r"CTKD needs a raw temperature \(batch, ..., 1\) beside"):
        mr.losses.CTKD().call(teacher, [logits, np.zeros(shape)])
