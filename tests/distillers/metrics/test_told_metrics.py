"""Tests that the loss tells which metrics fit: what is refused, and what to use instead."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.checks import heads
from tests.support.models.evaluated import (
    BINARY,
    ONE_HOT,
    dense_net,
    distilled,
    evaluated,
    logits_of,
    yes_or_no,
)

pytestmark = pytest.mark.usefixtures("eagerly")

L, M = keras.layers, keras.metrics


@pytest.fixture
def x(random):
    return random.normal(size=(24, 4)).astype("float32")


def above_one(y_true, y_pred):
    return keras.ops.mean(keras.ops.cast(y_pred > 1.0, "float32"), axis=-1)


def requiring_tenths(values):
    """Fails for inputs that were made up, so that nothing can be told of the head."""
    tf.debugging.assert_near(values, 0.1, rtol=0, atol=1e-6)
    return values


def unknown_heads(**endings):
    inputs = keras.Input((4,))
    given = L.Lambda(requiring_tenths)(inputs)
    outputs = {n: L.Activation(end)(L.Dense(1, name=n)(given)) for n, end in endings.items()}
    return keras.Model(inputs, outputs if len(endings) > 1 else outputs.popitem()[1])


def test_the_loss_says_what_a_head_is_that_cannot_be_told(random):
    x, y = np.full((24, 4), 0.1, "float32"), yes_or_no(random, 24, 1)
    student = unknown_heads(p=tf.nn.sigmoid)
    assert heads.of_model(student).head() is None
    student.get_layer("p").bias.assign([-2.0])
    metrics = ["accuracy", M.Precision(name="precision"), M.BinaryCrossentropy(name="bce")]
    p = logits_of(student, x)
    for loss in (keras.losses.BinaryCrossentropy(), "binary_crossentropy"):
        distiller = mr.Distiller(
            student=student, teacher=dense_net(1), knowledge=[mr.Response("logit_mse")]
        )
        distiller.compile("sgd", loss, metrics=metrics)
        result = evaluated(distiller, x, y)
        right = ((p > 0.5) == (y > 0.5)).mean()
        assert result["accuracy"] == pytest.approx(right, abs=1e-6)
        expected = -np.where(y > 0.5, np.log(p), np.log(1 - p)).mean()
        assert result["bce"] == pytest.approx(expected, abs=1e-5)


def test_each_loss_says_what_its_output_is(random):
    x = np.full((24, 4), 0.1, "float32")
    y = {name: yes_or_no(random, 24, 1) for name in ("p", "z")}
    student = unknown_heads(p=tf.nn.sigmoid, z=tf.identity)
    for name in y:
        student.get_layer(name).bias.assign([-2.0] if name == "p" else [0.3])
    taught = [mr.Response("logit_mse", at=name, name=f"of_{name}") for name in y]
    distiller = mr.Distiller(
        student=student, teacher=unknown_heads(p=tf.nn.sigmoid, z=tf.identity), knowledge=taught
    )
    losses = {"p": keras.losses.BinaryCrossentropy(), "z": BINARY}
    distiller.compile("sgd", losses, metrics={name: ["accuracy"] for name in y})
    result, found = evaluated(distiller, x, y), student.predict(x, verbose=0)
    for name, threshold in (("p", 0.5), ("z", 0.0)):
        right = ((found[name] > threshold) == (y[name] > 0.5)).mean()
        assert result[f"{name}_accuracy"] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "units", "loss", "message"),
    [
        (M.Accuracy(), 3, ONE_HOT, r"use metrics=\['accuracy'\]"),
        (M.MeanIoU(3), 3, ONE_HOT, r"use keras.metrics.MeanIoU\(..., sparse_y_pred=False\)"),
        (M.MeanIoU(2), 1, BINARY, r"use keras.metrics.BinaryIoU\(\)"),
        (M.AUC(), 3, above_one, r"such as keras.metrics.AUC\(from_logits=True\)"),
        ("precision", 3, None, r"takes probabilities, and the students return logits"),
    ],
)
def test_metrics_that_would_be_wrong_are_refused(metric, units, loss, message):
    with pytest.raises(ValueError, match=message):
        distilled(dense_net(units), loss, [metric])


def test_remedies_of_refused_metrics_are_taken():
    distilled(dense_net(3), above_one, [M.AUC(from_logits=True), M.BinaryAccuracy(threshold=0)])
    distilled(dense_net(3), ONE_HOT, ["accuracy", M.MeanIoU(3, sparse_y_pred=False)])
    distilled(dense_net(1), BINARY, [M.BinaryIoU()])


def test_a_monitor_of_a_regression_is_refused(x):
    distiller = mr.Distiller(
        student=dense_net(1), teacher=dense_net(1), knowledge=[mr.Response("logit_mse")]
    )
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"PeerMonitor compares classes or labels\. Received"):
        distiller.fit(x, x[:, :1], callbacks=[mr.callbacks.PeerMonitor(x)], verbose=0)


def test_a_regression_keeps_its_metrics(random, x):
    y, student = random.uniform(size=(24, 1)), dense_net(1)
    result = evaluated(distilled(student, "mse", ["mae", M.MeanAbsoluteError(name="m")]), x, y)
    expected = np.abs(logits_of(student, x) - y).mean()
    assert result["mae"] == pytest.approx(expected, abs=1e-6)
    assert result["m"] == pytest.approx(expected, abs=1e-6)
