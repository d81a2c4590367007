"""Tests of the distillation of independent labels, against float64 NumPy."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from tests.support.equations.bernoulli import binary_kd, sigmoid

SHAPES = {"one logit": (5, 1), "labels": (5, 4), "maps": (2, 3, 4, 3), "a map": (2, 3, 4, 1)}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_binary_kd_equals_numpy(temperature, shape, random, assert_equals_numpy):
    teacher, student = 3.0 * random.normal(size=(2, *shape)).astype("float32")
    loss = mr.losses.BinaryKD(temperature=temperature)
    expected = lambda t, s: binary_kd(t, s, temperature)  # noqa: E731
    assert_equals_numpy(loss, expected, teacher, student, rtol=2e-5)


@pytest.mark.parametrize("size", [50.0, 500.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_huge_logits_are_exact(temperature, size, random, gradient):
    teacher, student = random.choice([-size, size], size=(2, 6, 5)).astype("float32")
    loss = mr.losses.BinaryKD(temperature=temperature)
    expected = binary_kd(teacher, student, temperature)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-6)
    p, q = (sigmoid(z / temperature) for z in (teacher, student))
    slopes = gradient(lambda z: loss.call(teacher, z), student)
    np.testing.assert_allclose(slopes, temperature * (q - p), rtol=1e-5, atol=1e-6)


def test_close_logits_keep_their_digits(random):
    teacher = random.normal(size=(4, 3)).astype("float32")
    student = teacher + np.float32(1e-3) * random.normal(size=(4, 3)).astype("float32")
    for temperature in (1.0, 20.0):
        value = mr.losses.BinaryKD(temperature=temperature).call(teacher, student)
        np.testing.assert_allclose(value, binary_kd(teacher, student, temperature), rtol=1e-2)


def test_one_logit_is_kd_of_two_classes(random):
    teacher, student = random.normal(size=(2, 6, 1)).astype("float32")
    pairs = [np.concatenate([z, np.zeros_like(z)], axis=1) for z in (teacher, student)]
    np.testing.assert_allclose(
        mr.losses.BinaryKD(temperature=2.0).call(teacher, student),
        mr.losses.KD(temperature=2.0).call(*pairs),
        rtol=1e-5,
    )


def test_it_sees_the_shift_that_softmax_does_not(random):
    teacher = random.normal(size=(4, 5)).astype("float32")
    assert np.abs(mr.losses.KD().call(teacher + 3.0, teacher)).max() < 1e-5
    assert mr.losses.BinaryKD().call(teacher + 3.0, teacher).numpy().min() > 1.0


def test_a_student_alone_learns_from_stored_logits(random):
    x, z = random.normal(size=(32, 4)).astype("float32"), random.normal(size=(32, 3))
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    student.compile(keras.optimizers.Adam(0.05), mr.losses.BinaryKD(temperature=1.0))
    history = student.fit(x, z, epochs=3, batch_size=32, verbose=0).history["loss"]
    assert history[2] < history[1] < history[0]
