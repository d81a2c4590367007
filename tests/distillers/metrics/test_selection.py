"""The best student: chosen by validation in `fit`, used by `predict`."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("eagerly")]


@pytest.fixture
def peers(net):
    def build(**arguments):
        peers = mr.PeerDistiller({"a": net(), "b": net(), "c": net()}, **arguments)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        peers.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
        return peers

    return build


def rig(student, label):
    """Makes a student predict one label whatever it sees."""
    head = student.get_layer("logits")
    bias = np.zeros(3, "float32")
    bias[label] = 5.0
    head.set_weights([np.zeros_like(head.kernel), bias])


def test_best_by_accuracy(peers, images):
    peers = peers()
    for student, label in zip(peers.students.values(), (0, 1, 2), strict=True):
        rig(student, label)
    validation = images, np.array([1] * 8 + [0] * 3 + [2])
    peers.fit(images, np.zeros(12, int), validation_data=validation, verbose=0)
    assert peers.best_student is peers.students["b"]
    expected = peers.students["b"].predict(images, verbose=0)
    np.testing.assert_array_equal(peers.predict(images, verbose=0), expected)
    np.testing.assert_array_equal(peers.predict_on_batch(images), expected)
    np.testing.assert_array_equal(peers(images), expected)


@pytest.mark.graph
def test_prediction_follows_when_another_student_becomes_the_best(peers, images):
    peers = peers()
    for student, label in zip(peers.students.values(), (0, 1, 2), strict=True):
        rig(student, label)
    for label in (2, 0):
        data = images, np.full(12, label)
        peers.fit(*data, validation_data=data, verbose=0)
        assert set(peers.predict(images, verbose=0).argmax(axis=1)) == {label}


@pytest.mark.parametrize(
    ("arguments", "best"),
    [
        ({}, "b"),
        ({"criterion": "ce"}, "a"),
        ({"criterion": "accuracy", "criterion_mode": "min"}, "a"),
    ],
)
def test_criterion_and_mode(arguments, best, peers):
    selection = peers(**arguments).selection
    logs = {f"val_{n}/accuracy": value for n, value in zip("abc", (0.2, 0.9, 0.5), strict=True)}
    logs |= {f"val_{n}/ce": value for n, value in zip("abc", (0.1, 0.9, 0.5), strict=True)}
    selection.note(logs)
    assert selection.best() == best


def test_without_accuracy_the_compiled_loss_decides(net, images, labels, cross_entropy):
    peers = mr.PeerDistiller({"a": net(), "b": net()})
    peers.compile(keras.optimizers.SGD(0.0), cross_entropy)
    rig(peers.students["a"], 0)
    rig(peers.students["b"], 1)
    ones = np.ones_like(labels)
    peers.fit(images, ones, validation_data=(images, ones), verbose=0)
    assert peers.best_student_name == "b"


def test_no_validation_no_best_student(peers, images, labels):
    peers = peers()
    peers.fit(images, labels, verbose=0)
    with pytest.raises(ValueError, match=r"not known before a validation: fit with"):
        _ = peers.best_student
    with pytest.raises(ValueError, match=r"choose one of distiller.students: \['a', 'b', 'c'\]"):
        peers.predict(images, verbose=0)


def test_evaluate_does_not_choose(peers, images, labels):
    peers = peers()
    peers.evaluate(images, labels, verbose=0)
    assert not peers.selection.decided


def test_unknown_criterion(peers, images, labels):
    peers = peers(criterion="f1")
    with pytest.raises(ValueError, match=r"one of \['accuracy', 'ce'\]. Received: criterion='f1'"):
        peers.fit(images, labels, validation_data=(images, labels), verbose=0)


def test_unknown_mode(peers):
    with pytest.raises(ValueError, match=r"criterion_mode must be 'max', 'min' or None"):
        peers(criterion_mode="best")


def test_users_callbacks_run_after_the_choice(peers, images, labels):
    peers = peers()
    seen = []

    class See(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(peers.selection.decided)

    data = {"validation_data": (images, labels), "verbose": 0}
    peers.fit(images, labels, callbacks=See(), **data)
    peers.fit(images, labels, callbacks=[See()], **data)
    assert seen == [True, True]


def test_a_callback_list_of_the_users_own(peers, images, labels):
    peers = peers()
    callbacks = keras.callbacks.CallbackList([], add_history=True, model=peers)
    peers.fit(images, labels, callbacks=callbacks, validation_data=(images, labels), verbose=0)
    assert peers.selection.decided
