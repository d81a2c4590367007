"""Tests of what PeerMonitor cannot watch, and of how that is said."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be a positive integer. Received: every=0"),
        ({"batch_size": 2.0}, "batch_size must be a positive integer. Received: batch_size=2.0"),
        ({"plots": "x", "plot_every": True}, "plot_every must be None or a positive"),
        ({"plot_every": 2}, "plot_every needs plots=, a folder"),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.callbacks.PeerMonitor(np.ones((2, 4)), **arguments)


def test_data_are_needed():
    with pytest.raises(TypeError, match="Received: data of type None"):
        mr.callbacks.PeerMonitor(None)


def test_a_model_that_is_no_distiller_is_refused(net, inputs, labels, cross_entropy):
    model = net("model")
    model.compile("sgd", cross_entropy)
    with pytest.raises(TypeError, match=r"students of a distiller.*a model of type Functional"):
        model.fit(inputs, labels, callbacks=[mr.callbacks.PeerMonitor(inputs)], verbose=0)


@pytest.mark.parametrize(
    "data", [np.ones((0, 4), "float32"), tf.data.Dataset.from_tensor_slices(np.ones((0, 4)))]
)
def test_data_without_samples_are_refused(peers, inputs, labels, data):
    with pytest.raises(ValueError, match=r"at least one sample. Received: none"):
        peers().fit(inputs, labels, callbacks=[mr.callbacks.PeerMonitor(data)], verbose=0)


@pytest.mark.parametrize("has_teacher", [False, True])
def test_nothing_to_measure_is_an_error(net, inputs, labels, cross_entropy, has_teacher):
    teacher = net("teacher", num_classes=4) if has_teacher else None
    knowledge = mr.Relation("rkd_distance", at="logits")
    if not has_teacher:
        knowledge = mr.Response("confidence_penalty")
    distiller = mr.Distiller(student=net("student"), teacher=teacher, knowledge=[knowledge])
    distiller.compile("sgd", cross_entropy, run_eagerly=True)
    monitor = mr.callbacks.PeerMonitor(inputs)
    message = "one student and " + ("a teacher of other" if has_teacher else "no teacher")
    with pytest.raises(ValueError, match=message):
        distiller.fit(inputs, labels, callbacks=[monitor], verbose=0)


def test_other_outputs_than_logits_of_samples_are_refused(teacher, inputs, cross_entropy):
    def positions(name):
        layers = [keras.Input((4,)), keras.layers.Reshape((2, 2)), keras.layers.Dense(3)]
        return keras.Sequential(layers, name=name)

    distiller = mr.Distiller(
        student=positions("student"), teacher=positions("teacher"), knowledge=[mr.Response("kd")]
    )
    distiller.compile("sgd")
    monitor = mr.callbacks.PeerMonitor(inputs)
    with pytest.raises(ValueError, match=r"'student' with outputs of shape \(22, 2, 3\)"):
        distiller.fit(inputs, callbacks=[monitor], verbose=0)


@pytest.mark.usefixtures("scratch_registry")
def test_an_aggregator_that_needs_labels_gets_them_or_says_so(peers, inputs, labels):
    @mr.register("aggregator", "of_labels")
    class OfLabels(mr.aggregators.Aggregator):
        needs = ("labels",)

        def call(self, logits, labels):
            own = keras.ops.one_hot(labels, 3, dtype="float32")
            return self.same_for_all(9.0 * own, logits)

    distiller = peers(teacher=None, aggregator="of_labels")
    with pytest.raises(ValueError, match="'of_labels' needs labels: PeerMonitor"):
        distiller.fit(inputs, labels, callbacks=[mr.callbacks.PeerMonitor(inputs)], verbose=0)
    monitor = mr.callbacks.PeerMonitor((inputs, labels))
    distiller.fit(inputs, labels, callbacks=[monitor], verbose=0)
    assert set(monitor.measure()) == {"diversity", "agreement"}


def test_a_missing_matplotlib_is_named_at_once(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        mr.callbacks.PeerMonitor(np.ones((2, 4)), plots="pictures")
