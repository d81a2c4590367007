"""Tests of the response losses against published reference values and float64 NumPy."""

import keras
import numpy as np
import pytest

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


def standardized(logits):
    """Row by row, with the population standard deviation."""
    rows = [(row - np.mean(row)) / np.sqrt(np.mean((row - np.mean(row)) ** 2)) for row in logits]
    return np.array(rows)


@pytest.mark.parametrize("temperature", [2.0, 0.7])
def test_kd_of_standardized_logits_equals_numpy(temperature, pair, assert_equals_numpy):
    assert_equals_numpy(
        mr.losses.KD(temperature=temperature, standardize=True),
        lambda t, s: kd(standardized(t), standardized(s), temperature),
        *pair,
        rtol=1e-4,
    )


def test_kd_of_standardized_logits_ignores_their_size(pair):
    teacher, student = pair
    loss = mr.losses.KD(standardize=True)
    values = loss.call(30.0 * teacher - 5.0, 0.01 * student + 2.0)
    np.testing.assert_allclose(values, loss.call(teacher, student), rtol=1e-3, atol=1e-6)


def test_kd_of_standardized_huge_logits_is_exact(random):
    teacher, student = random.choice([-500.0, 500.0], size=(2, 6, 10)).astype("float32")
    teacher[:, 0], student[:, 0] = 499.0, -499.0
    loss = mr.losses.KD(temperature=2.0, standardize=True)
    expected = kd(standardized(teacher), standardized(student), 2.0)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, 500.0])
def test_kd_of_standardized_constant_logits_has_no_slope(constant, pair, gradient):
    teacher, student = pair[0], np.full_like(pair[1], constant)
    loss = mr.losses.KD(standardize=True)
    slopes = gradient(lambda z: loss.call(teacher, z), student)
    np.testing.assert_array_equal(slopes, np.zeros_like(student))
    expected = kd(standardized(teacher), np.zeros_like(student), 4.0)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-5)


@pytest.mark.parametrize("identifier", ["kd", "dkd", "dist"])
def test_standardize_is_an_option_that_is_off(identifier, round_trip):
    assert mr.losses.get(identifier).get_config()["standardize"] is False
    again = round_trip(mr.losses.get(identifier, standardize=True, temperature=2.0))
    assert (again.standardize, float(again.temperature)) == (True, 2.0)


@pytest.mark.parametrize("identifier", ["kd", "dkd", "dist"])
@pytest.mark.parametrize("standardize", [1, None, "yes", 2.0])
def test_standardize_that_is_not_a_truth_value_is_refused(identifier, standardize):
    with pytest.raises(ValueError, match="standardize must be True or False"):
        mr.losses.get(identifier, standardize=standardize)


@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 4, 6), (5, 1), (3, 4, 1)], ids=str)
@pytest.mark.parametrize(
    ("identifier", "difference"), [("logit_mse", np.square), ("logit_l1", np.abs)]
)
def test_differences_of_logits_equal_numpy(identifier, difference, shape, random, gradient):
    teacher, student = 3.0 * random.normal(size=(2, *shape)).astype("float32")
    loss = mr.losses.get(identifier)
    gap = student.astype("float64") - teacher
    expected = difference(gap).reshape(len(gap), -1).mean(axis=1)
    np.testing.assert_allclose(loss.call(teacher, student), expected, rtol=1e-5)
    slopes = {"logit_mse": 2.0 * gap, "logit_l1": np.sign(gap)}[identifier] / gap[0].size
    actual = gradient(lambda z: loss.call(teacher, z), student)
    np.testing.assert_allclose(actual, slopes, rtol=1e-5)


def test_logit_mse_equals_numpy(pair, assert_equals_numpy):
    def mse(teacher, student):
        pairs = zip(teacher, student, strict=True)
        return np.array([sum((z - y) ** 2 for y, z in zip(*p, strict=True)) / 7 for p in pairs])

    assert_equals_numpy(mr.losses.LogitMSE(), mse, *pair)


def test_logit_l1_equals_numpy(pair, assert_equals_numpy):
    def l1(teacher, student):
        pairs = zip(teacher, student, strict=True)
        return np.array([sum(abs(z - y) for y, z in zip(*p, strict=True)) / 7 for p in pairs])

    assert_equals_numpy(mr.losses.LogitL1(), l1, *pair)


@pytest.mark.parametrize("identifier", ["logit_mse", "logit_l1"])
def test_a_regression_of_one_output_is_distilled(identifier, random):
    """A student of one linear output learns the stored outputs of its teacher."""
    inputs = random.normal(size=(64, 3)).astype("float32")
    outputs = inputs @ np.array([[1.0], [-2.0], [0.5]], "float32") + 3.0
    student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    student.compile(keras.optimizers.Adam(0.1), mr.losses.get(identifier))
    losses = student.fit(inputs, outputs, batch_size=16, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.1 < 1.0 < losses[0]


@pytest.mark.parametrize("size", [1e-3, 500.0])
def test_differences_of_logits_are_exact_at_any_size(size, random):
    teacher, student = size * random.normal(size=(2, 6, 4)).astype("float32")
    gap = student.astype("float64") - teacher
    mse, l1 = (mr.losses.get(name).call(teacher, student) for name in ("logit_mse", "logit_l1"))
    np.testing.assert_allclose(mse, np.square(gap).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(l1, np.abs(gap).mean(axis=1), rtol=1e-5)
