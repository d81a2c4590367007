"""Tests of going on after an interruption: bit by bit, whatever trains and whatever stops it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.callbacks import workers
from modreduce_keras.callbacks.checkpoints import Position
from tests.support.trainings import resumable
from tests.support.trainings.resumable import (
    EPOCHS,
    STEPS,
    Interrupt,
    StoppedError,
    different,
    interrupt,
    state,
    stored,
    train,
    uninterrupted,
)

pytestmark = [
    pytest.mark.slow,
    # Its random layer is a state that has to go on, too.
    pytest.mark.filterwarnings("ignore:The student .* changes its inputs at random"),
]


@pytest.mark.parametrize(
    ("kind", "every", "at", "begins"),
    [
        ("light", "epoch", (0, 2), None),
        ("light", "epoch", (1, 2), (1, 0)),
        ("light", "epoch", (2, STEPS), (2, 0)),
        ("light", 2, (0, STEPS), (0, 2)),
        ("light", 2, (1, STEPS), (1, 2)),
        ("light", 1, (1, STEPS), (1, STEPS - 1)),
        ("distiller", 2, (1, STEPS), (1, 2)),
        ("plain", 2, (1, STEPS), (1, 2)),
    ],
    ids=str,
)
def test_the_state_is_that_of_an_uninterrupted_run(kind, every, at, begins, tmp_path):
    expected, history = uninterrupted(kind)
    interrupt(tmp_path, *at, kind=kind, every=every)
    newest = stored(tmp_path)[-1:]
    # Other weights and seeds to begin with, where there is a checkpoint that replaces them.
    model, resumed = train(kind, 2 if begins else 1, tmp_path, EPOCHS, every=every)
    assert different(state(model), expected) == []
    assert resumed == history
    assert newest == ([begins] if begins else [])


def test_it_trains_as_it_would_without(tmp_path):
    model, history = train("light", 1, tmp_path, EPOCHS, every=2)
    expected = uninterrupted("light")
    assert different(state(model), expected[0]) == []
    assert history == expected[1]


def test_interrupted_again_and_again(tmp_path):
    expected, history = uninterrupted("light")
    for epoch, step in [(0, 2), (0, 3), (1, 1), (1, 3), (1, 3), (2, 2)]:
        interrupt(tmp_path, epoch, step, every=1)
    model, resumed = train("light", 2, tmp_path, EPOCHS, every=1)
    assert different(state(model), expected) == []
    assert resumed == history


def test_a_finished_run_does_nothing_more_and_goes_on_with_more_epochs(tmp_path):
    trained = []

    class Counting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            trained.append(batch)

    first, shorter = train("light", 1, tmp_path, 2)
    again, repeated = train("light", 2, tmp_path, 2, Counting())
    assert different(state(first), state(again)) == []
    assert (repeated, trained) == (shorter, [])
    expected, history = uninterrupted("light")
    longer, longer_history = train("light", 3, tmp_path, EPOCHS, Counting())
    assert different(state(longer), expected) == []
    assert longer_history == history
    assert trained == list(range(STEPS))


def test_epochs_of_the_history_and_a_later_fit_without_it(tmp_path):
    train("light", 1, tmp_path, 2)
    model = resumable.light(2, True)
    resume = mr.callbacks.Resume(tmp_path)
    arguments = {"shuffle": False, "verbose": 0}
    history = model.fit(resumable.light_data(), epochs=3, callbacks=[resume], **arguments)
    assert history.epoch == [0, 1, 2]
    history = model.fit(resumable.light_data(), epochs=1, **arguments)
    assert history.epoch == [0]
    assert len(history.history["loss"]) == 1


def test_restore_before_fit(tmp_path):
    trained, _ = train("light", 1, tmp_path, 1)
    resume, model = mr.callbacks.Resume(tmp_path), resumable.light(2, True)
    assert resume.restore(model)
    assert different(state(model), state(trained)) == []
    assert not mr.callbacks.Resume(tmp_path / "other").restore(model)


def test_keeps_the_newest_checkpoints(tmp_path):
    train("light", 1, tmp_path, 3, every=1, keep=2)
    assert stored(tmp_path) == [(2, 2), (3, 0)]
    assert len(list(tmp_path.glob("*.checkpoint"))) == 2


def test_every_counts_steps_in_each_epoch_and_of_an_execution(tmp_path):
    train("light", 1, tmp_path, 2, every=2, keep=9)
    assert stored(tmp_path) == [(0, 2), (1, 0), (1, 2), (2, 0)]


def test_several_steps_for_each_execution(tmp_path):
    def fit(seed, folder, *others, at_once=2):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, steps_per_execution=at_once)
        resume = mr.callbacks.Resume(folder, every=2, keep=9)
        dataset = resumable.light_data(batch=2)  # 7 batches
        model.fit(dataset, epochs=2, shuffle=False, verbose=0, callbacks=[*others, resume])
        return model

    expected = state(fit(1, tmp_path / "once"))
    assert stored(tmp_path / "once")[:4] == [(0, 2), (0, 4), (0, 6), (1, 0)]
    with pytest.raises(StoppedError):
        fit(1, tmp_path / "run", Interrupt(1, 6))
    assert stored(tmp_path / "run")[-1] == (1, 4)
    with pytest.raises(ValueError, match=r"of step 4 .* the same steps_per_execution.*: 3"):
        fit(2, tmp_path / "run", at_once=3)
    assert different(state(fit(2, tmp_path / "run")), expected) == []


# Other callbacks


def stopping(patience=2):
    return keras.callbacks.EarlyStopping("loss", patience=patience, restore_best_weights=True)


def test_callbacks_that_are_named_remember(tmp_path):
    first, second, other = stopping(), stopping(patience=5), stopping()
    train("light", 1, tmp_path, 2, first, callbacks=[first])
    train("light", 2, tmp_path, 2, second, callbacks=[second])
    assert second.patience == 5
    assert first.best is not None
    assert (second.wait, second.best, second.best_epoch) == (
        first.wait,
        first.best,
        first.best_epoch,
    )
    pairs = zip(first.best_weights, second.best_weights, strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match=r"must be those of the checkpoint, \['EarlyStopping'\]"):
        train("light", 2, tmp_path, 3, other)


class Halving(keras.callbacks.Callback):
    """Changes a variable and counts at every batch."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        rate = self.model.optimizer.learning_rate
        rate.assign(rate * 0.5)


def test_a_callback_of_each_batch_does_nothing_twice(tmp_path):
    def run(seed, folder, *others):
        halving = Halving()
        arguments = {"every": 2, "callbacks": [halving]}
        return train("light", seed, folder, 2, halving, *others, **arguments)[0], halving

    expected, counted = run(1, tmp_path / "once")
    with pytest.raises(StoppedError):
        run(1, tmp_path / "run", Interrupt(1, STEPS))
    model, halving = run(2, tmp_path / "run")
    assert different(state(model), state(expected)) == []
    assert halving.batches == counted.batches == 2 * STEPS


# Several replicas and workers


def test_two_replicas_go_on(two_replicas, tmp_path):
    def fit(seed, folder, *others):
        with two_replicas.scope():
            model = resumable.light(seed, False)
        resume = mr.callbacks.Resume(folder, every=2)
        arguments = {"shuffle": False, "verbose": 0, "callbacks": [*others, resume]}
        # Keras adds up the replicas' first batches, which must be of one size for that.
        dataset = resumable.light_data(batch=4).take(3)
        history = model.fit(dataset, epochs=2, **arguments)
        return model, history.history

    expected, history = fit(1, tmp_path / "once")
    with pytest.raises(StoppedError):
        fit(1, tmp_path / "run", Interrupt(1, STEPS))
    model, resumed = fit(2, tmp_path / "run")
    assert different(state(model), state(expected)) == []
    assert resumed == history


@pytest.fixture
def task(monkeypatch):
    def of(given, several=2):
        cluster = {"worker": [f"localhost:{port}" for port in range(several)]}
        config = json.dumps({"cluster": cluster, "task": given})
        monkeypatch.setenv("TF_CONFIG", config)

    return of


def test_each_worker_has_a_folder(task, tmp_path):
    task({"type": "worker", "index": 1})
    train("light", 1, tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["worker-1"]
    assert stored(tmp_path / "worker-1") == [(1, 0)]
    task({"type": "worker", "index": 1}, several=1)
    train("light", 1, tmp_path / "alone", 1)
    assert stored(tmp_path / "alone") == [(1, 0)]


@pytest.mark.parametrize("given", [{"type": "../..", "index": 0}, {"type": "worker"}])
def test_a_worker_without_a_name_is_refused(task, given, tmp_path):
    task(given)
    with pytest.raises(ValueError, match="TF_CONFIG of several workers"):
        workers.own_folder(resumable.light(1, True))


class OtherWorkers:
    """Stands for the strategy of a cluster: the other workers' checkpoints are given."""

    def __init__(self, *others):
        self.others = others

    def run(self, function):
        return function()

    def gather(self, own, axis):
        return tf.concat([own, *(tf.constant([other], "int64") for other in self.others)], axis)


class Workers:
    def __init__(self, *others):
        self.distribute_strategy = OtherWorkers(*others)


def test_workers_begin_with_what_all_have(tmp_path):
    own = {Position(2, 0): "c", Position(1, 0): "b", Position(0, 0): "a"}
    none = [-1, -1]
    other = Workers([[1, 0], [0, 0], none])
    assert workers.common(other, own, 3, tmp_path) == {Position(1, 0): "b", Position(0, 0): "a"}
    assert workers.common(Workers([none] * 3), {}, 3, tmp_path) == {}
    with pytest.raises(ValueError, match="no checkpoint in common"):
        workers.common(Workers([none] * 3), own, 3, tmp_path)
