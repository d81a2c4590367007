"""Losses of generators in NumPy, and for large logits."""

import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras.distillers.generation import losses

pytestmark = pytest.mark.usefixtures("eagerly")


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def test_losses_equal_numpy(random):
    teacher, student = random.normal(size=(2, 7, 4)) * 3.0
    features = random.normal(size=(7, 5))
    log_t, log_s = log_softmax(teacher), log_softmax(student)
    mean = np.exp(log_t).mean(axis=0)
    information = (mean * np.log(mean)).sum()
    expected = {
        "adversarial": -(np.exp(log_t) * (log_t - log_s)).sum(axis=1),
        "one_hot": -log_t[np.arange(7), teacher.argmax(axis=1)],
        "activation": -np.abs(features).mean(axis=1),
        "activation_paper": -np.abs(features).sum(axis=1),
        "information": np.full(7, information / np.log(10.0)),
        "information_paper": np.full(7, information / 4),
    }
    found = {
        "adversarial": losses.adversarial_loss(teacher, student),
        "one_hot": losses.one_hot_loss(teacher),
        "activation": losses.activation_loss(features),
        "activation_paper": losses.activation_loss(features, "paper"),
        "information": losses.information_loss(teacher),
        "information_paper": losses.information_loss(teacher, "paper"),
    }
    for name, values in expected.items():
        assert found[name].dtype == tf.float32
        np.testing.assert_allclose(found[name], values, rtol=2e-6, atol=1e-6, err_msg=name)


def test_losses_are_finite_for_large_logits():
    logits = tf.constant([[500.0, -500.0, 0.0]] * 2)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = losses.one_hot_loss(logits) + losses.information_loss(logits)
        values += losses.adversarial_loss(logits, -logits)
    gradient = tape.gradient(values, logits)
    np.testing.assert_allclose(values, [-1000.0] * 2)
    assert np.isfinite(gradient).all()
