"""Where the compiled loss does not say what the outputs are, the labels do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers.checks import kind_checks
from modreduce_keras.output_kind import output_kinds
from tests.support.models.output_kinds import (
    SEVERAL_HOT,
    X,
    net,
    own_loss,
    standing,
)


@pytest.mark.parametrize("eager", [True, False], ids=["arrays", "dataset"])
def test_the_labels_say_what_a_loss_of_the_users_own_does_not(eager):
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])

    def own(y, z):
        return keras.ops.mean(keras.ops.square(keras.ops.sigmoid(z) - y), axis=-1)

    distiller.compile("sgd", own, run_eagerly=eager)

    def fit(y):
        data = (X, y) if eager else (tf.data.Dataset.from_tensors((X, y)),)
        return distiller.fit(*data, shuffle=False, verbose=0)

    with pytest.raises(ValueError, match=r"are several hot take mr.Response\('binary_kd'\)"):
        fit(SEVERAL_HOT)
    for y in (np.eye(5, dtype="float32")[np.arange(12) % 5], X[:, :5]):
        fit(y)


NUMBERS = X[:, :5]


KINDS_IN_THE_LABELS = {
    "plain numbers": ("mse", NUMBERS, "plain numbers take"),
    "several hot": (own_loss, SEVERAL_HOT, "several hot take"),
    "several hot in integers": (own_loss, SEVERAL_HOT.astype("int32"), "several hot take"),
}


@pytest.mark.parametrize("case", KINDS_IN_THE_LABELS)
def test_labels_of_a_dataset_are_looked_at_before_a_step_of_xla(case):
    """XLA leaves the checks of a step out."""
    loss, labels, message = KINDS_IN_THE_LABELS[case]
    student = net()
    distiller = mr.Distiller(student=student, teacher=net(), knowledge=[mr.Response("kd")])
    distiller.compile("sgd", loss, jit_compile=True)
    before = student.get_weights()
    with pytest.raises(ValueError, match=message):
        distiller.fit(tf.data.Dataset.from_tensors((X, labels)), shuffle=False, verbose=0)
    for weight, value in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.slow
def test_labels_that_fit_are_what_they_were_in_a_step_of_xla():
    y = np.eye(5, dtype="int32")[np.arange(12) % 5]
    student = net()
    distiller = mr.Distiller(student=student, teacher=net(), knowledge=[mr.Response("kd")])
    distiller.compile(standing(), "mse", jit_compile=True)
    data = tf.data.Dataset.from_tensors((X, y))
    value = distiller.fit(data, shuffle=False, verbose=0).history["mean_squared_error"][0]
    z = student(X).numpy()
    assert value == pytest.approx(np.mean((z - y) ** 2), rel=1e-5)
    # Prediction reads no labels, and may have none.
    for given in (data.map(lambda x, y: x), tf.data.Dataset.from_tensors((X, NUMBERS))):
        np.testing.assert_allclose(distiller.predict(given, verbose=0), z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", KINDS_IN_THE_LABELS)
def test_labels_that_do_not_fit_are_nan_where_xla_leaves_the_check_out(case):
    loss, labels, _ = KINDS_IN_THE_LABELS[case]
    parts = kind_checks.parts_of({"student": [mr.Response("kd")]})
    output = keras.KerasTensor((None, 5))
    checks = kind_checks.require_fitting(parts, output_kinds(loss, output), loss)
    given = np.concatenate([labels, np.eye(5)[:2]]).astype(labels.dtype)

    @tf.function(jit_compile=True)
    def checked(rows):
        return kind_checks.checked_labels(checks, rows, output)

    found = checked(given).numpy()
    one_hot = (np.isin(given, (0, 1)).all(1)) & (given.sum(1) == 1)
    fits = one_hot if loss == "mse" else one_hot | ~np.isin(given, (0, 1)).all(1)
    np.testing.assert_array_equal(found[fits], given[fits])
    assert np.isnan(found[~fits]).all()
    assert 2 <= fits.sum() < len(fits)


def test_one_odd_row_hides_no_others():
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=[mr.Response("kd")])
    distiller.compile("sgd", own_loss, run_eagerly=True)
    odd = np.concatenate([np.full((1, 5), 0.2, "float32"), SEVERAL_HOT[1:]])
    with pytest.raises(ValueError, match=r"are several hot take mr.Response\('binary_kd'\)"):
        distiller.fit(X, odd, verbose=0)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_numbers_of_one_unit_are_found_in_every_shape(shape):
    distiller = mr.Distiller(student=net(1), teacher=net(1), knowledge=[mr.Response("binary_kd")])
    distiller.compile(standing(), "mse", run_eagerly=True)
    numbers = np.arange(100.0, 900.0, 100.0).reshape(shape)
    with pytest.raises(ValueError, match="plain numbers take"):
        distiller.fit(X[:8], numbers, verbose=0)
    yes = (numbers > 300).astype("float32")
    logs = distiller.fit(X[:8], yes, verbose=0).history
    z = distiller.student.predict(X[:8], verbose=0)[:, 0]
    expected = np.mean((z - yes.reshape(-1)) ** 2)
    assert logs["mean_squared_error"][0] == pytest.approx(expected, rel=1e-5)
