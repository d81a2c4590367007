"""Models that change after `compile`: the distiller computes with what they are now."""

import copy

import keras
import numpy as np
import pytest

import modreduce_keras as mr

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = np.arange(20) % 3


def net(width=8):
    hidden = [keras.layers.Dense(width), keras.layers.ReLU()]
    return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3)])


def made(**arguments):
    distiller = mr.Distiller(student=net(), teacher=net(16), knowledge="kd")
    distiller.compile("sgd", LOSS, metrics=["accuracy"], **arguments)
    return distiller


def adapt(layer):
    """Gives a layer low-rank weights that change what it computes."""
    layer.enable_lora(2)
    for variable in layer.trainable_variables:
        variable.assign(np.random.default_rng(1).normal(size=variable.shape))


def fit(distiller):
    distiller.fit(X, Y, shuffle=False, verbose=0)


@pytest.mark.parametrize("evaluate_knowledge", [False, True])
def test_evaluation_and_prediction_follow_a_student_with_lora(evaluate_knowledge):
    distiller = made(evaluate_knowledge=evaluate_knowledge)
    fit(distiller)
    distiller.evaluate(X, Y, verbose=0)
    before = distiller.predict(X, verbose=0)
    adapt(distiller.student.layers[0])
    logits = np.array(distiller.student(X))
    assert np.abs(logits - before).max() > 0.1
    np.testing.assert_allclose(distiller.predict(X, verbose=0), logits, rtol=1e-5, atol=1e-6)
    for logs in (
        distiller.evaluate(X, Y, verbose=0, return_dict=True),
        distiller.test_on_batch(X, Y, return_dict=True),
    ):
        assert logs["accuracy"] == pytest.approx((logits.argmax(-1) == Y).mean())


def test_a_single_batch_follows_a_student_with_lora():
    distiller = made()
    distiller.test_on_batch(X, Y)
    adapt(distiller.student.layers[0])
    right = np.array(distiller.student(X)).argmax(-1) == Y
    distiller.reset_metrics()
    logs = distiller.test_on_batch(X, Y, return_dict=True)
    assert logs["accuracy"] == pytest.approx(right.mean())


def test_a_student_with_lora_is_compiled_again():
    distiller = made()
    fit(distiller)
    adapt(distiller.student.layers[0])
    with pytest.raises(ValueError, match=r"call distiller\.compile\(\.\.\.\) again"):
        fit(distiller)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_predictions_follow_a_quantized_student():
    distiller = made()
    before = distiller.predict(X, verbose=0)
    distiller.student.quantize("int8")
    found = distiller.predict(X, verbose=0)
    np.testing.assert_allclose(found, distiller.student(X), rtol=1e-5, atol=1e-6)
    assert np.abs(found - before).max() > 1e-4


def test_training_follows_a_teacher_with_lora():
    students = []
    for fits_before in (True, False):
        keras.utils.set_random_seed(1)
        distiller = made()
        weights = distiller.student.get_weights()
        if fits_before:
            fit(distiller)
            distiller.student.set_weights(weights)
        adapt(distiller.teacher.layers[0])
        fit(distiller)
        students.append(distiller.student.get_weights())
    for one, other in zip(*students, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_distiller_of_a_config_does_not_learn_from_a_random_teacher():
    distiller = made()
    clone = keras.models.clone_model(distiller)
    clone.compile("sgd", LOSS)
    match = r"random weights.*made\.teacher\.set_weights.*copy\.deepcopy"
    for train in (
        fit,
        lambda one: one.train_on_batch(X, Y),
        lambda one: one.pretrain(X, verbose=0),
    ):
        with pytest.raises(ValueError, match=match):
            train(clone)
    clone.teacher.set_weights(distiller.teacher.get_weights())
    fit(clone)
    fit(copy.deepcopy(distiller))


def test_float64_as_the_default_of_keras():
    keras.config.set_floatx("float64")
    try:
        distiller = made(run_eagerly=True)
        copied = mr.models.copy_model(distiller.student)
        logits = np.array(copied(X, training=True))
        ce = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(20), Y]
        logs = distiller.fit(X, Y, batch_size=20, shuffle=False, verbose=0).history
        assert logs["ce"][0] == pytest.approx(ce.mean(), rel=1e-5)
    finally:
        keras.config.set_floatx("float32")
