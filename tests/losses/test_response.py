"""Tests of the response losses against published reference values and float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def kd(teacher, student, temperature):
    """T² Σ_c p_t (log p_t - log p_s) in float64, the mean over all but the first axis."""
    target = log_softmax(np.asarray(teacher, "float64") / temperature)
    prediction = log_softmax(np.asarray(student, "float64") / temperature)
    divergence = (np.exp(target) * (target - prediction)).sum(axis=-1)
    return temperature**2 * divergence.reshape(len(divergence), -1).mean(axis=1)


@pytest.fixture
def pair(request, random):
    """Teacher's and student's logits of the shape that the test asks for."""
    shape = getattr(request, "param", (5, 7))
    return [3.0 * random.normal(size=shape).astype("float32") for _ in range(2)]


@pytest.mark.parametrize("name", ["kd_t1", "kd_t4"])
def test_kd_equals_the_reference_implementation(name, golden, gradient):
    reference = golden(name)
    loss = mr.losses.KD(temperature=float(reference["temperature"]))
    teacher, student = reference["teacher"], reference["student"]
    np.testing.assert_allclose(loss(teacher, student), reference["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        gradient(lambda z: loss(teacher, z), student), reference["grad_student"], 1e-5, 1e-7
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("pair", [(5, 7), (3, 2, 4, 6)], ids=["vectors", "maps"], indirect=True)
def test_kd_equals_its_equation(temperature, pair, gradient, finite_differences):
    teacher, student = pair
    loss = mr.losses.KD(temperature=temperature)
    expected = kd(teacher, student, temperature)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=2e-5)
    np.testing.assert_allclose(
        gradient(lambda z: loss.call(teacher, z), student),
        finite_differences(lambda z: kd(teacher, z, temperature).sum(), student),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_of_huge_logits_is_exact(temperature, random, gradient):
    teacher, student = random.choice([-500.0, 500.0], size=(2, 6, 10)).astype("float32")
    loss = mr.losses.KD(temperature=temperature)
    expected = kd(teacher, student, temperature)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-6)
    probabilities = (
        np.exp(log_softmax(z.astype("float64") / temperature)) for z in (student, teacher)
    )
    np.testing.assert_allclose(
        gradient(lambda z: loss.call(teacher, z), student),
        temperature * np.subtract(*probabilities),
        rtol=1e-5,
        atol=1e-6,
    )


def test_kd_is_the_divergence_from_the_teacher_and_not_to_it():
    teacher, student = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    value = mr.losses.KD(temperature=1.0)(teacher, student)
    assert float(value) == pytest.approx(
        0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), rel=1e-6
    )


def test_kd_gradient_keeps_its_size_at_high_temperature(pair, gradient):
    teacher, student = (z - z.mean(axis=1, keepdims=True) for z in pair)
    loss = mr.losses.KD(temperature=1e3)
    # Hinton et al., equation 4: matching logits, divided by the number of classes.
    expected = (student - teacher) / student.shape[1]
    np.testing.assert_allclose(
        gradient(lambda z: loss.call(teacher, z), student), expected, rtol=0.02, atol=0.005
    )


def test_kd_ignores_what_softmax_ignores(pair):
    teacher, student = pair
    loss = mr.losses.KD()
    np.testing.assert_allclose(
        loss.call(teacher + 7.0, student - 3.0), loss.call(teacher, student), rtol=1e-4
    )


def test_kd_defaults_to_the_papers_temperature():
    assert mr.losses.KD().get_config()["temperature"] == 4.0


@pytest.mark.parametrize(
    "temperature", [0, 0.0, -1.0, float("nan"), float("inf"), True, None, [4.0]]
)
def test_kd_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature of KD must be a positive number, or a sch"):
        mr.losses.KD(temperature=temperature)


def test_kd_refuses_a_temperature_that_names_no_schedule():
    with pytest.raises(ValueError, match=r"Unknown schedule identifier.*'cosine'.*'warm'"):
        mr.losses.KD(temperature="warm")


@pytest.mark.parametrize("pair", [(5, 7), (3, 2, 4, 6)], ids=["vectors", "maps"], indirect=True)
def test_logit_mse_equals_its_equation(pair, gradient):
    teacher, student = pair
    loss = mr.losses.LogitMSE()
    axes = tuple(range(1, student.ndim))
    expected = ((student.astype("float64") - teacher) ** 2).mean(axis=axes)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-5)
    np.testing.assert_allclose(
        gradient(lambda z: loss.call(teacher, z), student),
        2.0 * (student - teacher) / np.prod(student.shape[1:]),
        rtol=1e-5,
    )


@pytest.mark.parametrize("loss", [mr.losses.KD(), mr.losses.LogitMSE()], ids=lambda loss: loss.name)
@pytest.mark.parametrize(
    ("teacher", "student"), [((4, 10), (4, 12)), ((4, 2, 10), (4, 10)), ((4,), (4,))]
)
def test_logits_of_other_shapes_are_refused(loss, teacher, student):
    message = (
        rf"{type(loss).__name__} needs logits \(batch, ..., classes\) of equal shape. Received"
    )
    with pytest.raises(ValueError, match=message) as error:
        loss.call(tf.zeros(teacher), tf.zeros(student))
    assert f"teacher of shape {teacher} and student of shape {student}" in str(error.value)
