"""What the outputs are, and what is learnt of one's own past and depth, fit together."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.equations.bernoulli import binary_kd, sigmoid
from tests.support.models.output_kinds import (
    ONE_HOT,
    SEVERAL_HOT,
    X,
    bce,
    net,
    own_loss,
    softmax,
    standing,
)


@pytest.mark.parametrize("units", [5])
@pytest.mark.parametrize(
    ("loss", "compared"),
    [(bce(), sigmoid), ("mse", lambda z: z), (keras.losses.Hinge(), sigmoid)],
    ids=["bce", "mse", "hinge"],
)
def test_the_mean_teacher_is_compared_as_what_the_outputs_are(units, loss, compared):
    model = net(units)
    distiller = mr.MeanTeacher(model, variant="paper", momentum=1.0)
    for variable in distiller.past.variables:
        if len(variable.shape) == 2:
            variable.assign(0.5 * variable)
    distiller.compile(standing(), loss, run_eagerly=True)
    value = distiller.fit(X, SEVERAL_HOT[:, :units], verbose=0).history["consistency"][0]
    past = distiller.mean_teacher().predict(X, verbose=0)
    now = model.predict(X, verbose=0)
    expected = np.mean((compared(now) - compared(past)) ** 2)
    assert expected > 1e-4
    assert value == pytest.approx(expected, rel=1e-4)


def test_temporal_ensembling_remembers_probabilities_of_labels():
    model = net()
    distiller = mr.TemporalEnsembling(model, samples=12)
    distiller.compile(standing(), bce(), run_eagerly=True)
    data = mr.data.with_index(tf.data.Dataset.from_tensor_slices((X, SEVERAL_HOT))).batch(12)
    distiller.fit(data, shuffle=False, verbose=0)
    expected = 0.4 * sigmoid(model.predict(X, verbose=0))
    np.testing.assert_allclose(distiller.predictions.numpy(), expected, rtol=1e-5)


def test_a_loss_that_does_not_say_what_one_output_is():
    with pytest.raises(ValueError, match=r"must say what one output is.*BinaryCrossentropy"):
        mr.MeanTeacher(net(1)).compile("sgd", lambda y, z: keras.ops.mean(z - y, axis=-1))


def image_net(units):
    return mr.models.get("convnet", num_classes=units, widths=(4, 6), input_shape=(8, 8, 1))


def test_exits_of_several_labels_learn_by_binary_kd(round_trip):
    images = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype("float32")
    with pytest.raises(ValueError, match=r"response='kd' .*: response='binary_kd'"):
        mr.SelfDistiller(image_net(5), ["stage1"]).compile("sgd", bce())
    distiller = mr.SelfDistiller(image_net(5), ["stage1"], response="binary_kd")
    distiller.compile(standing(), bce(), run_eagerly=True)
    logs = distiller.fit(images, SEVERAL_HOT, verbose=0).history
    outputs = distiller.model_with_exits(images, training=True)
    expected = binary_kd(outputs["final"], outputs["stage1"], 3.0).mean()
    assert logs["stage1/binary_kd"][0] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match=r"exit_model\(name\)"):
        distiller.early_exit()
    assert round_trip(distiller).kd.identifier == "binary_kd"


def test_exits_of_one_logit_learn_by_binary_kd():
    distiller = mr.SelfDistiller(image_net(1), ["stage1"])
    assert distiller.kd.identifier == "binary_kd"
    with pytest.raises(ValueError, match="at least two classes"):
        mr.EarlyExit(distiller.model_with_exits)
    with pytest.raises(ValueError, match=r"response must be one of \['kd', 'binary_kd'\]"):
        mr.SelfDistiller(image_net(1), ["stage1"], response="dkd")


def of_one_hot(distiller, loss, y, eager=True):
    """Trains one step; a dataset where not eager."""
    distiller.compile(standing(), loss, run_eagerly=eager)
    samples = tf.data.Dataset.from_tensor_slices((X, y))
    samples = mr.data.with_index(samples) if hasattr(distiller, "samples") else samples
    return distiller.fit(samples.batch(12), shuffle=False, verbose=0).history


def past_of(made, **arguments):
    if made == "mean_teacher":
        return mr.MeanTeacher(net(), **arguments)
    return mr.TemporalEnsembling(net(), samples=12, **arguments)


@pytest.mark.parametrize("made", ["mean_teacher", "temporal_ensembling"])
@pytest.mark.parametrize("eager", [True, False])
def test_labels_that_are_not_what_is_compared_with_the_past_are_refused(made, eager):
    with pytest.raises(
        ValueError, match=r"several hot take mr\.\w+\(model, \.\.\., kind='labels'\)"
    ):
        of_one_hot(past_of(made), own_loss, SEVERAL_HOT, eager)
    with pytest.raises(ValueError, match=r"one-hot take mr\.\w+\(model, \.\.\., kind='classes'\)"):
        of_one_hot(past_of(made), "mse", ONE_HOT, eager)
    with pytest.raises(
        ValueError, match=r"numbers take mr\.\w+\(model, \.\.\., kind='regression'\)"
    ):
        of_one_hot(past_of(made, kind="classes"), "mse", X[:, :5], eager)


@pytest.mark.parametrize(
    ("kind", "loss", "y", "compared"),
    [
        (None, own_loss, ONE_HOT, softmax),
        ("classes", "mse", ONE_HOT, softmax),
        ("classes", own_loss, ONE_HOT, softmax),
        ("labels", own_loss, SEVERAL_HOT, sigmoid),
        ("labels", "mse", SEVERAL_HOT, sigmoid),
        ("regression", "mse", ONE_HOT, lambda z: z),
        ("regression", own_loss, X[:, :5], lambda z: z),
    ],
)
def test_the_user_says_what_is_compared_with_the_past(kind, loss, y, compared):
    made = past_of("temporal_ensembling", kind=kind)
    of_one_hot(made, loss, y)
    expected = 0.4 * compared(made.student.predict(X, verbose=0))
    np.testing.assert_allclose(made.predictions.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert type(made).from_config(made.get_config()).kind == kind


def test_what_the_user_says_agrees_with_the_loss():
    with pytest.raises(
        ValueError, match=r"independent labels: mr.MeanTeacher\(model, \.\.\., kind='lab"
    ):
        mr.MeanTeacher(net(), kind="classes").compile("sgd", bce())
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    for kind in ("labels", "regression"):
        with pytest.raises(
            ValueError, match=r"mr.MeanTeacher\(model, \.\.\., kind='classes'\) takes"
        ):
            mr.MeanTeacher(net(), kind=kind).compile("sgd", crossentropy)
    with pytest.raises(ValueError, match=r"kind must be one of .*'classes'"):
        mr.MeanTeacher(net(), kind="logits")
    mr.MeanTeacher(net(1), kind="labels").compile("sgd", own_loss)
    one_number = mr.MeanTeacher(net(1))
    one_number.compile("sgd", "mse")
    one_number.fit(X, np.ones((12, 1)), verbose=0)
