"""VID against the reference values, with the regressor's weights, and against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


@pytest.mark.parametrize("size", ["same", "down", "up"])
def test_value_and_gradient_equal_the_reference(size, golden):
    arrays = golden(f"vid_{size}")
    student, teacher = tf.constant(arrays["student"]), arrays["teacher"]
    knowledge = mr.Feature("vid", at="stage2")
    knowledge.build(student.shape, teacher.shape)
    log_scale, *_ = knowledge.adapter.get_weights()
    np.testing.assert_allclose(log_scale, arrays["log_scale"], rtol=1e-6)
    kernels = [arrays[f"conv{i}"].reshape(1, 1, -1, teacher.shape[-1]) for i in range(3)]
    knowledge.adapter.set_weights([arrays["log_scale"], *kernels])
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = tf.reduce_mean(knowledge(student, teacher))
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-5)
    gradient, expected = tape.gradient(loss, student), arrays["grad_student"]
    largest = np.abs(expected).max()
    np.testing.assert_allclose(gradient / largest, expected / largest, atol=1e-5)


def test_vid_equals_numpy(random, gradient, finite_differences):
    teacher, mean = random.normal(size=(2, 2, 3, 4, 5))
    log_variance = random.normal(size=(2, 5))

    def value(mean, log_variance):
        total = 0.0
        for b, h, w, c in np.ndindex(2, 3, 4, 5):
            variance = np.exp(log_variance[b, c])
            total += (mean[b, h, w, c] - teacher[b, h, w, c]) ** 2 / variance + np.log(variance)
        return total / (2 * 2 * 3 * 4 * 5)

    loss = mr.losses.VID()
    np.testing.assert_allclose(
        loss(teacher, [mean, log_variance]), value(mean, log_variance), rtol=1e-6
    )
    actual = gradient(lambda m: loss(teacher, [m, log_variance]), mean)
    expected = finite_differences(lambda m: value(m, log_variance), mean)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)
    actual = gradient(lambda v: loss(teacher, [mean, v]), log_variance)
    expected = finite_differences(lambda v: value(mean, v), log_variance)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)


def test_the_best_variance_is_the_mean_squared_error(random, gradient):
    teacher, mean = random.normal(size=(2, 1, 6, 6, 3))
    best = np.log(((mean - teacher) ** 2).mean(axis=(1, 2)))
    slope = gradient(lambda v: mr.losses.VID()(teacher, [mean, v]), best)
    np.testing.assert_allclose(slope, np.zeros((1, 3)), atol=1e-6)


def test_a_student_without_a_variance_and_unequal_channels_are_refused():
    maps = np.ones((2, 4, 4, 6), "float32")
    with pytest.raises(ValueError, match=r"VID needs the student's side as \[mean, log_varianc"):
        mr.losses.VID().call(maps, maps)
    with pytest.raises(ValueError, match="VID needs equal numbers of channels"):
        mr.losses.VID().call(maps, [maps[..., :3], np.zeros((2, 3))])
    with pytest.raises(ValueError, match="VID needs equal numbers of channels"):
        mr.losses.VID().call(maps, [maps, np.zeros((2, 3))])
