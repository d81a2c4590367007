"""Tests of the variational regressor: its layers, its first variance and what it refuses."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.mark.parametrize("size", [8, 4, 2], ids=["down", "same", "up"])
def test_the_mean_is_three_matrices_with_relu_between(size, random, average_pooled):
    student = random.normal(size=(3, size, size, 5)).astype("float32")
    teacher = random.normal(size=(3, 4, 4, 6)).astype("float32")
    adapter = mr.adapters.VariationalRegressor()
    (mean, _), same = adapter(student, teacher)
    assert len(adapter.trainable_weights) == 4
    expected = average_pooled(student, min(size, 4), min(size, 4))
    for i, kernel in enumerate(adapter.get_weights()[1:]):
        expected = (np.maximum(expected, 0.0) if i else expected) @ kernel[0, 0]
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    pooled = average_pooled(teacher, min(size, 4), min(size, 4))
    np.testing.assert_allclose(same, pooled, atol=1e-6)


@pytest.mark.parametrize("variance", [1e-4, 0.3, 5.0, 800.0])
def test_the_first_variance_is_the_one_given(variance):
    adapter = mr.adapters.VariationalRegressor(initial_variance=variance)
    (_, log_variance), _ = adapter(np.ones((2, 4, 4, 3)), np.ones((2, 4, 4, 6)))
    np.testing.assert_allclose(log_variance, np.full((2, 6), np.log(variance)), atol=1e-5)
    assert adapter.get_config()["initial_variance"] == variance


def test_the_variance_is_float32_and_never_below_its_least(mixed_bfloat16):
    adapter = mr.adapters.VariationalRegressor(dtype="mixed_bfloat16")
    maps = np.ones((2, 4, 4, 6))
    adapter.build(maps.shape, maps.shape)
    adapter.log_scale.assign([-500.0, -50.0, 0.0, 5.0, 50.0, 500.0])
    (_, log_variance), _ = adapter(maps, maps)
    expected = np.log(np.logaddexp(0.0, [-500.0, -50.0, 0.0, 5.0, 50.0, 500.0]) + 1e-5)
    np.testing.assert_allclose(log_variance[0], expected, rtol=1e-6)


@pytest.mark.parametrize("variance", [0.0, -1.0, 1e-5, float("inf"), float("nan")])
def test_variances_that_make_no_sense(variance):
    message = "initial_variance must be above 1e-05. Received: initial_variance="
    with pytest.raises(ValueError, match=message):
        mr.adapters.VariationalRegressor(initial_variance=variance)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((None, 6), (None, 4, 4, 6), "VariationalRegressor takes feature maps .* of known size"),
        ((None, 4, 4, 6), (None, None, 4, 6), "VariationalRegressor takes feature maps .* of kno"),
        ([(None, 4, 4, 6)] * 2, (None, 4, 4, 6), "as many of the student as of the teacher"),
        ([(None, 4, 4, 6)] * 2, [(None, 4, 4, 6)] * 2, "reads one tap of each .*Received: 2 taps"),
    ],
    ids=["vector", "unknown size", "more taps of the student", "two taps"],
)
def test_features_that_do_not_fit_are_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        mr.adapters.VariationalRegressor().build(student, teacher)
