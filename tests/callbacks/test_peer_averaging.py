"""Tests of PeerAveraging, against the equation in NumPy and against an uninterrupted training."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

NAMES = ("a", "b", "c")
STEPS = 7
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(widths=(3,)):
    return mr.models.get("convnet", num_classes=3, widths=widths, input_shape=(6, 6, 1))


def peers(**compiled):
    """Returns three peers of equal weights that see different views, compiled."""
    keras.utils.set_random_seed(0)
    first = network()
    students = {name: mr.models.copy_model(first) for name in NAMES}
    views = [f"view_{i}" for i in range(3)]
    made = mr.PeerDistiller(students, student_inputs=views, online_weight=0.0)
    made.compile("sgd", LOSS, **compiled)
    return made


def data(random, steps=STEPS):
    views = {
        f"view_{i}": random.normal(size=(4 * steps, 6, 6, 1)).astype("float32") for i in range(3)
    }
    labels = random.integers(3, size=4 * steps)
    return tf.data.Dataset.from_tensor_slices((views, labels)).batch(4)


def weights(distiller):
    return [student.get_weights() for student in distiller.students.values()]


def pulled(each, rate):
    """Returns what the equation makes of the weights of each student."""
    means = [np.mean(np.float64(group), axis=0) for group in zip(*each, strict=True)]
    return [[(1 - rate) * w + rate * m for w, m in zip(own, means, strict=True)] for own in each]


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("every", [3, STEPS + 1])
def test_weights_are_pulled_after_every_so_many_steps_of_all_epochs(every, random):
    batches = data(random)
    trained = peers()
    averaging = mr.callbacks.PeerAveraging(rate=0.25, every=every)
    options = {"shuffle": False, "verbose": 0, "callbacks": [averaging]}
    trained.fit(batches, epochs=2, **options)
    trained.fit(batches, **options)

    by_hand = peers()
    for step, (x, y) in enumerate([*batches] * 3, start=1):
        by_hand.train_on_batch(x, y)
        if step % every == 0:
            each = zip(by_hand.students.values(), pulled(weights(by_hand), 0.25), strict=True)
            for student, own in each:
                student.set_weights(own)
    assert_equal(weights(trained), weights(by_hand))
    first, second, _ = weights(trained)
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_once", "every", "times"), [(2, 3, 2), (5, 3, 2), (5, 1, 2), (1, 7, 1)]
)
def test_steps_that_run_at_once_count_together(at_once, every, times, random, monkeypatch):
    trained = peers(steps_per_execution=at_once)
    averaging = mr.callbacks.PeerAveraging(rate=1.0, every=every)
    calls = []
    begin = averaging.on_train_begin

    def counted(logs=None):
        begin(logs)
        average = averaging._average
        averaging._average = lambda: calls.append(None) or average()

    monkeypatch.setattr(averaging, "on_train_begin", counted)
    trained.fit(data(random), shuffle=False, verbose=0, callbacks=[averaging])
    assert len(calls) == times


def test_statistics_are_averaged_and_integers_are_not(random):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dropout(0.5, seed=1)(keras.layers.BatchNormalization()(inputs))
    first = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    students = {name: mr.models.copy_model(first) for name in NAMES[:2]}
    trained = mr.PeerDistiller(students, student_inputs=["x", "y"], online_weight=0.0)
    trained.compile("sgd", LOSS)
    x = {name: random.normal(size=(8, 4), loc=place) for place, name in enumerate("xy")}
    states = students["b"].layers[2].seed_generator.state
    before = np.array(states)
    averaging = mr.callbacks.PeerAveraging(rate=1.0, every=1)
    trained.fit(x, np.arange(8) % 3, verbose=0, callbacks=[averaging])
    one, other = (student.layers[1] for student in students.values())
    np.testing.assert_array_equal(one.moving_mean, other.moving_mean)
    assert np.abs(one.moving_mean).max() > 1e-3
    assert np.any(np.array(states) != before)


def test_lower_layers_that_peers_share_stay_as_they_are_trained(random):
    images, trunks = random.normal(size=(4, 6, 6, 1)).astype("float32"), []
    for callbacks in ([mr.callbacks.PeerAveraging(rate=1.0, every=1)], []):
        keras.utils.set_random_seed(0)
        branched = mr.models.branch(network((3, 3)), at="stage1", branches=2)
        trained = mr.PeerDistiller(branched)
        trained.compile("sgd", LOSS)
        trained.fit(images, np.arange(4) % 3, verbose=0, shuffle=False, callbacks=callbacks)
        one, other = weights(trained)
        equal = all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        assert equal == bool(callbacks)
        trunks.append(branched.trunk.get_weights())
    for one, other in zip(*trunks, strict=True):
        np.testing.assert_array_equal(one, other)


class Kill(keras.callbacks.Callback):
    """Breaks off a training after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


# Weights are averaged after steps 3, 6, 9 and 12; an epoch has seven.
@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 5, STEPS + 3, STEPS + 6])
def test_a_resumed_training_is_the_uninterrupted_one(steps, random, tmp_path):
    batches = data(random)

    def train(*before, folder="run"):
        trained = peers()
        resume = mr.callbacks.Resume(tmp_path / folder, every=1)
        averaging = mr.callbacks.PeerAveraging(rate=0.25, every=3)
        options = {"epochs": 2, "shuffle": False, "verbose": 0}
        trained.fit(batches, **options, callbacks=[*before, averaging, resume])
        return weights(trained)

    with pytest.raises(KeyboardInterrupt):
        train(Kill(steps))
    for one, other in zip(train(), train(folder="once"), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_it_stands_before_resume(random, tmp_path):
    callbacks = [mr.callbacks.Resume(tmp_path), mr.callbacks.PeerAveraging()]
    with pytest.raises(ValueError, match=r"must stand before Resume.*Received: it stands after"):
        peers().fit(data(random), shuffle=False, verbose=0, callbacks=callbacks)


@pytest.mark.slow
def test_two_replicas_equal_one(two_replicas, random):
    def net():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])

    x = {name: random.normal(size=(24, 4)).astype("float32") for name in "xy"}
    batches = tf.data.Dataset.from_tensor_slices((x, random.integers(3, size=24))).batch(8)
    start, found = net().get_weights(), []
    for scope in (contextlib.nullcontext(), two_replicas.scope()):
        with scope:
            students = {name: net() for name in NAMES[:2]}
            trained = mr.PeerDistiller(students, student_inputs=["x", "y"], online_weight=0.0)
            trained.compile(keras.optimizers.SGD(0.5), LOSS)
        for student in students.values():
            student.set_weights(start)
        averaging = mr.callbacks.PeerAveraging(0.25, every=2)
        trained.fit(batches, epochs=2, shuffle=False, verbose=0, callbacks=[averaging])
        found.append(weights(trained))
    assert_equal(*found)
    assert np.abs(found[0][0][0] - found[0][1][0]).max() > 1e-3


def test_students_that_begin_apart_are_warned_of(random):
    trained = mr.PeerDistiller({"a": network(), "b": network()})
    trained.compile("sgd", LOSS)
    with pytest.warns(UserWarning, match=r"begin with different weights.*copy_model\(student\)"):
        trained.fit(
            random.normal(size=(4, 6, 6, 1)),
            np.zeros(4),
            verbose=0,
            callbacks=[mr.callbacks.PeerAveraging()],
        )


@pytest.mark.parametrize("differ", ["", "knowledge", "student_inputs"])
def test_students_that_would_stay_equal_are_warned_of(differ, random, recwarn):
    first = network()
    students = {name: mr.models.copy_model(first) for name in NAMES[:2]}
    kinds = ("kd", "dist" if differ == "knowledge" else "kd")
    trained = mr.PeerDistiller(
        students,
        teacher=network(),
        knowledge=dict(zip(students, kinds, strict=True)),
        student_inputs=["view_0", "view_1"] if differ == "student_inputs" else None,
    )
    trained.compile("sgd", LOSS)
    x = random.normal(size=(4, 6, 6, 1))
    x = {"view_0": x, "view_1": x + 1.0} if differ == "student_inputs" else x
    trained.fit(x, np.zeros(4), verbose=0, callbacks=[mr.callbacks.PeerAveraging()])
    warned = [str(one.message) for one in recwarn if "PeerAveraging" in str(one.message)]
    expected = "of its own: mr.PeerDistiller(..., aggregator=None, split_batches=True)"
    assert len(warned) == (not differ)
    assert all(expected in one for one in warned)


@pytest.mark.parametrize("rate", [0.0, 1.1, -0.1, "0.1", True, None, float("nan")])
def test_a_wrong_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate must be a number above 0 and at most 1. Received"):
        mr.callbacks.PeerAveraging(rate)


def test_a_wrong_interval_is_refused():
    with pytest.raises(ValueError, match="every"):
        mr.callbacks.PeerAveraging(every=0)


def test_students_of_different_architectures_are_refused(random):
    trained = mr.PeerDistiller({"a": network(), "b": network((4,))})
    trained.compile("sgd", LOSS)
    images = np.zeros((4, 6, 6, 1), "float32")
    with pytest.raises(ValueError, match=r"one architecture.*copy_model.*'a' \(.*'b' \("):
        trained.fit(images, np.zeros(4), verbose=0, callbacks=[mr.callbacks.PeerAveraging()])


@pytest.mark.parametrize("kind", ["student", "distiller"])
def test_a_model_without_peers_is_refused(kind):
    model = network()
    if kind == "distiller":
        model = mr.Distiller(student=model, teacher=network())
    model.compile("sgd", LOSS)
    with pytest.raises(TypeError, match=r"several, such as mr.ModReduce. Received: a "):
        model.fit(
            np.zeros((4, 6, 6, 1), "float32"),
            np.zeros(4),
            verbose=0,
            callbacks=[mr.callbacks.PeerAveraging()],
        )
