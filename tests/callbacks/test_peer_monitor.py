"""Tests of watching students: numbers by hand, training left alone and files."""

import csv
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.inputs.cases import assert_close

pytestmark = pytest.mark.slow


def probabilities(model, inputs):
    logits = keras.ops.convert_to_numpy(model(inputs, training=False)).astype("float64")
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def measures_by_hand(students, teacher, inputs, weights=None):
    """Returns what the monitor logs of some students, from their predictions, by loops."""
    weights = np.ones(len(inputs)) if weights is None else weights
    each = {name: probabilities(student, inputs) for name, student in students.items()}
    pairs = list(itertools.combinations(each.values(), 2))
    measures = {"diversity": 0.0, "agreement": 0.0}
    for n, weight in enumerate(weights / weights.sum()):
        for p, q in pairs:
            distance = np.sqrt(((p[n] - q[n]) ** 2).sum())
            measures["diversity"] += weight * distance / len(pairs)
            measures["agreement"] += weight * (p[n].argmax() == q[n].argmax()) / len(pairs)
    if teacher is not None:
        top = probabilities(teacher, inputs).argmax(-1)
        for name, own in each.items():
            same = own.argmax(-1) == top
            measures[f"{name}/teacher_agreement"] = (weights * same).sum() / weights.sum()
    return measures


def last(history):
    return {name: values[-1] for name, values in history.history.items()}


@pytest.mark.parametrize("weighted", [False, True])
def test_measures_equal_loops_over_the_predictions(peers, teacher, inputs, labels, weighted):
    distiller = peers()
    weights = np.linspace(0.0, 2.0, len(inputs)) if weighted else None
    data = (inputs, labels, weights) if weighted else inputs
    monitor = mr.callbacks.PeerMonitor(data, batch_size=8)
    logs = last(distiller.fit(inputs, labels, epochs=2, callbacks=[monitor], verbose=0))
    for name, value in measures_by_hand(distiller.students, teacher, inputs, weights).items():
        assert_close(logs[name], value, atol=1e-6)
    shares = np.array([logs[f"{name}/ensemble_weight"] for name in "abc"])
    assert shares.shape == (3,)
    stacked = np.stack([distiller.students[n](inputs, training=False) for n in "abc"])
    w = keras.ops.softmax(distiller.aggregator.weights_of_peers).numpy()
    ensemble = np.einsum("p,pbc->bc", w, stacked).argmax(-1)
    same = ensemble == probabilities(teacher, inputs).argmax(-1)
    weights = np.ones(len(inputs)) if weights is None else weights
    assert_close(logs["ensemble/teacher_agreement"], (weights * same).sum() / weights.sum())


def test_datasets_give_what_arrays_give(peers, inputs, labels):
    distiller = peers()
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(5)
    monitors = [mr.callbacks.PeerMonitor(data) for data in (dataset, (inputs, labels))]
    distiller.fit(inputs, labels, callbacks=monitors, verbose=0)
    from_dataset, from_arrays = (monitor.measure() for monitor in monitors)
    assert from_dataset.keys() == from_arrays.keys()
    assert_close(list(from_dataset.values()), list(from_arrays.values()))


def test_without_a_teacher_the_students_are_compared_alone(peers, inputs, labels):
    distiller = peers(teacher=None)
    monitor = mr.callbacks.PeerMonitor(inputs)
    distiller.fit(inputs, labels, callbacks=[monitor], verbose=0)
    assert set(monitor.measure()) == {"diversity", "agreement"}


def test_one_student_is_compared_with_its_teacher(net, teacher, inputs, labels, cross_entropy):
    distiller = mr.Distiller(student=net("student"), teacher=teacher, knowledge=[mr.Response("kd")])
    distiller.compile("sgd", cross_entropy, run_eagerly=True)
    monitor = mr.callbacks.PeerMonitor(inputs, batch_size=8)
    logs = last(distiller.fit(inputs, labels, callbacks=[monitor], verbose=0))
    same = [probabilities(m, inputs).argmax(-1) for m in (distiller.student, teacher)]
    assert_close(logs["teacher_agreement"], (same[0] == same[1]).mean())
    assert "diversity" not in logs


def test_several_teachers_count_by_the_mean_of_their_probabilities(
    net, inputs, labels, cross_entropy
):
    teachers = [net("first"), net("second", width=9)]
    for number, one in enumerate(teachers):  # so that they disagree
        one.layers[-1].kernel.assign(one.layers[-1].kernel * (1.0 + 4.0 * number))
    distiller = mr.Distiller(
        student=net("student"), teacher=teachers, knowledge=[mr.Response("kd")]
    )
    distiller.compile("sgd", cross_entropy, run_eagerly=True)
    monitor = mr.callbacks.PeerMonitor(inputs)
    logs = last(distiller.fit(inputs, labels, callbacks=[monitor], verbose=0))
    top = sum(probabilities(one, inputs) for one in teachers).argmax(-1)
    tops = [probabilities(one, inputs).argmax(-1) for one in teachers]
    assert (tops[0] != tops[1]).any()
    own = probabilities(distiller.student, inputs).argmax(-1)
    assert_close(logs["teacher_agreement"], (own == top).mean())


def test_the_teacher_sees_its_own_input(net, teacher, inputs, labels, cross_entropy):
    distiller = mr.Distiller(
        student=net("student"),
        teacher=teacher,
        knowledge=[mr.Response("kd")],
        teacher_input=lambda x: -2.0 * x,
    )
    distiller.compile("sgd", cross_entropy, run_eagerly=True)
    monitor = mr.callbacks.PeerMonitor(inputs)
    logs = last(distiller.fit(inputs, labels, callbacks=[monitor], verbose=0))
    top = probabilities(teacher, -2.0 * inputs).argmax(-1)
    own = probabilities(distiller.student, inputs).argmax(-1)
    assert_close(logs["teacher_agreement"], (own == top).mean())


def test_training_is_the_same_bit_for_bit(net, peers, inputs, labels, tmp_path):
    def train(callbacks):
        keras.utils.set_random_seed(3)
        distiller = peers(run_eagerly=False, teacher=net("teacher", width=7))
        history = distiller.fit(
            inputs, labels, batch_size=8, epochs=3, callbacks=callbacks, verbose=0
        )
        variables = [*distiller.variables, *distiller.optimizer.variables]
        return [v.numpy() for v in variables], history.history

    alone, plain_logs = train([])
    monitor = mr.callbacks.PeerMonitor((inputs, labels), log_dir=tmp_path, plots=tmp_path)
    watched, logs = train([monitor])
    for one, other in zip(alone, watched, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {name: logs[name] for name in plain_logs} == plain_logs


def test_two_replicas_measure_what_one_does(net, inputs, labels, cross_entropy, two_replicas):
    with two_replicas.scope():
        distiller = mr.PeerDistiller(
            {name: net(name) for name in "ab"},
            teacher=net("teacher"),
            knowledge={"a": [mr.Response("kd")]},
        )
        distiller.compile("sgd", cross_entropy)
    monitor = mr.callbacks.PeerMonitor(inputs, batch_size=8)
    logs = last(distiller.fit(inputs, labels, callbacks=[monitor], verbose=0))
    for name, value in measures_by_hand(distiller.students, distiller.teacher, inputs).items():
        assert_close(logs[name], value, atol=1e-6)


class Runs(keras.layers.Layer):
    """Passes its input on and counts its runs."""

    def build(self, shape):
        self.runs = self.add_weight(name="runs", initializer="zeros", trainable=False)

    def call(self, inputs):
        self.runs.assign_add(1.0)
        return inputs


@pytest.fixture
def counted(cross_entropy, net):
    """A distiller without weight on its teacher's runs, and the counter inside the teacher."""
    counter = Runs()
    layers = [keras.Input((4,)), counter, keras.layers.Dense(3)]
    distiller = mr.Distiller(
        student=net("student"), teacher=keras.Sequential(layers), knowledge=[mr.Response("kd")]
    )
    distiller.compile("sgd", cross_entropy)
    return distiller, counter


@pytest.mark.parametrize("fixed_order", [None, False, True])
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_the_teacher_runs_once_over_data_in_a_fixed_order(
    counted, inputs, labels, kind, fixed_order
):
    distiller, counter = counted
    data = inputs
    if kind == "dataset":
        data = tf.data.Dataset.from_tensor_slices(inputs).batch(11)
    monitor = mr.callbacks.PeerMonitor(data, batch_size=11, fixed_order=fixed_order)
    distiller.fit(inputs, labels, batch_size=22, callbacks=[monitor], verbose=0)
    before = float(counter.runs)
    first = monitor.measure()
    once = fixed_order or (fixed_order is None and kind == "arrays")
    assert float(counter.runs) - before == (0 if once else 2)
    distiller.student.layers[-1].bias.assign([0.0, 9.0, 0.0])
    second = monitor.measure()
    assert first != second
    teacher = probabilities(distiller.teacher, inputs).argmax(-1)
    assert_close(second["teacher_agreement"], (teacher == 1).mean())


@pytest.mark.parametrize("sizes", [(11, 22), (22, 11)])
def test_data_that_only_claim_a_fixed_order_are_found_out(counted, inputs, labels, sizes):
    distiller, _ = counted
    size = iter([11, *sizes])  # the first time is the trial before training
    data = tf.data.Dataset.from_tensor_slices(inputs).batch(11).take(2)
    monitor = mr.callbacks.PeerMonitor(data, fixed_order=True)
    monitor.batches = type(
        "Changing", (), {"__iter__": lambda _: iter(data.take(next(size) // 11))}
    )()
    distiller.fit(inputs, labels, callbacks=[monitor], verbose=0)
    with pytest.raises(
        ValueError, match=r"another number of batches .* Received: fixed_order=True"
    ):
        monitor.measure()


@pytest.mark.parametrize("fixed_order", [False, True])
def test_nothing_is_traced_after_the_first_epoch(peers, inputs, labels, monkeypatch, fixed_order):
    distiller = peers()
    monitor = mr.callbacks.PeerMonitor(inputs, batch_size=9, fixed_order=fixed_order)
    distiller.fit(inputs, labels, callbacks=[monitor], verbose=0)
    traces, forward = [], type(distiller).forward

    def counted(self, *args, **kwargs):
        traces.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(distiller), "forward", counted)
    second, third = monitor.measure(), monitor.measure()
    assert second == third
    assert traces == []


def test_every_third_epoch_and_the_last_are_measured(peers, inputs, labels):
    monitor = mr.callbacks.PeerMonitor(inputs, every=3)
    measured = []
    monitor.measure = lambda: measured.append(epoch["now"]) or {"diversity": 1.0}
    epoch = {}
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: epoch.update(now=e + 1))
    history = peers(teacher=None).fit(
        inputs, labels, epochs=6, callbacks=[note, monitor], verbose=0
    )
    assert measured == [1, 4, 6]
    assert len(history.history["diversity"]) == 3


def test_callbacks_after_it_have_its_values(peers, inputs, labels, tmp_path):
    path = tmp_path / "log.csv"
    stop = keras.callbacks.EarlyStopping("agreement", mode="min", baseline=-1.0, patience=2)
    callbacks = [mr.callbacks.PeerMonitor(inputs), keras.callbacks.CSVLogger(path), stop]
    history = peers().fit(inputs, labels, epochs=9, callbacks=callbacks, verbose=0).history
    assert len(history["loss"]) == 2
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for name in ("diversity", "agreement", "b/teacher_agreement", "ensemble/teacher_agreement"):
        assert_close([float(row[name]) for row in rows], history[name])


def scalars(folder):
    """Returns what TensorBoard reads from a folder: {tag: {step: value}}."""
    found = {}
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


@pytest.mark.filterwarnings("ignore:.*tf_record_iterator")
def test_tensorboard_gets_measures_and_aggregator_weights(peers, inputs, labels, tmp_path):
    monitor = mr.callbacks.PeerMonitor(inputs, every=2, log_dir=tmp_path / "logs")
    history = peers().fit(inputs, labels, epochs=3, callbacks=[monitor], verbose=0).history
    found = scalars(tmp_path / "logs")
    names = {"diversity", "agreement", "ensemble/teacher_agreement"}
    names |= {f"{name}/teacher_agreement" for name in "abc"}
    weights = {f"{name}/ensemble_weight" for name in "abc"}
    assert set(found) == names | weights
    for name in names:
        assert list(found[name]) == [0, 2]
        assert_close(list(found[name].values()), history[name])
    for name in weights:
        assert list(found[name]) == [0, 1, 2]
        assert_close(list(found[name].values()), history[name])


def test_pictures_are_drawn_at_the_end_or_on_the_way(peers, inputs, labels, tmp_path):
    monitor = mr.callbacks.PeerMonitor(inputs, plots=tmp_path / "new" / "plots", plot_every=2)
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(len(list(tmp_path.rglob("*.png"))))
    )
    peers().fit(inputs, labels, epochs=3, callbacks=[monitor, count], verbose=0)
    assert seen == [0, 4, 4]
    names = ["agreement", "diversity", "ensemble_weight", "learning_curves"]
    assert sorted(path.stem for path in (tmp_path / "new" / "plots").iterdir()) == names


def test_a_training_that_goes_on_keeps_the_earlier_epochs(peers, inputs, labels):
    distiller, monitor = peers(), mr.callbacks.PeerMonitor(inputs)
    distiller.fit(inputs, labels, epochs=2, callbacks=[monitor], verbose=0)
    distiller.fit(inputs, labels, epochs=4, initial_epoch=2, callbacks=[monitor], verbose=0)
    assert list(monitor._epochs) == [1, 2, 3, 4]
    distiller.fit(inputs, labels, epochs=1, callbacks=[monitor], verbose=0)
    assert list(monitor._epochs) == [1]
