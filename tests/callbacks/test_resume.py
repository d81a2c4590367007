"""Tests of going on after an interruption: bit by bit, from files that may be torn, or refused."""

import errno
import json
import os
import warnings

import keras
import numpy as np
import pytest
import resumable
import tensorflow as tf
from resumable import STEPS, Interrupt, StoppedError, different, state, train

import modreduce_keras as mr
from modreduce_keras.callbacks import checkpoints, workers
from modreduce_keras.callbacks.checkpoints import DamagedError, Folder, Position

EPOCHS = 3


@pytest.fixture(scope="module")
def uninterrupted():
    """Trains to the end, once for each kind; without `Resume` but for the order of the data."""
    done = {}

    def run(kind, *others):
        if kind not in done:
            model, history = train(kind, 1, None, EPOCHS, *others)
            done[kind] = state(model), history
        return done[kind]

    return run


class Announcing(keras.callbacks.Callback):
    """Tells the data the epoch where there is no `Resume`."""

    def on_epoch_begin(self, epoch, logs=None):
        from modreduce_keras.data.epoch_shuffle import announce_epoch

        announce_epoch(epoch)


def interrupt(folder, epoch, step, kind="light", **arguments):
    with pytest.raises(StoppedError):
        train(kind, 1, folder, EPOCHS, Interrupt(epoch, step), **arguments)


def stored(folder):
    return Folder(folder, 3).positions()


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
def test_the_state_is_that_of_an_uninterrupted_run(
    kind, every, at, begins, uninterrupted, tmp_path
):
    expected, history = uninterrupted(kind, Announcing())
    # The batch at which it is interrupted ends before `Resume` comes, as when it is killed.
    interrupt(tmp_path, *at, kind=kind, every=every)
    newest = stored(tmp_path)[-1:]
    # Other weights and seeds to begin with, where there is a checkpoint that replaces them.
    model, resumed = train(kind, 2 if begins else 1, tmp_path, EPOCHS, every=every)
    assert different(state(model), expected) == []
    assert resumed == history
    assert newest == ([begins] if begins else [])


def test_it_trains_as_it_would_without(uninterrupted, tmp_path):
    model, history = train("light", 1, tmp_path, EPOCHS, every=2)
    expected = uninterrupted("light", Announcing())
    assert different(state(model), expected[0]) == []
    assert history == expected[1]


def test_interrupted_again_and_again(uninterrupted, tmp_path):
    expected, history = uninterrupted("light", Announcing())
    for epoch, step in [(0, 2), (0, 3), (1, 1), (1, 3), (1, 3), (2, 2)]:
        interrupt(tmp_path, epoch, step, every=1)
    model, resumed = train("light", 2, tmp_path, EPOCHS, every=1)
    assert different(state(model), expected) == []
    assert resumed == history


def test_a_finished_run_does_nothing_more_and_goes_on_with_more_epochs(uninterrupted, tmp_path):
    trained = []

    class Counting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            trained.append(batch)

    first, shorter = train("light", 1, tmp_path, 2)
    again, repeated = train("light", 2, tmp_path, 2, Counting())
    assert different(state(first), state(again)) == []
    assert (repeated, trained) == (shorter, [])
    expected, history = uninterrupted("light", Announcing())
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
    assert len(list(tmp_path.iterdir())) == 2


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


# Files that are not whole


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    elif how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "checksum":
        content[-1] ^= 1
    elif how == "foreign":
        content = b"PK" + content
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "checksum", "foreign"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(how, uninterrupted, tmp_path):
    expected, history = uninterrupted("light", Announcing())
    interrupt(tmp_path, 2, 2)
    damage(Folder(tmp_path, 3).file(Position(2, 0)), how)
    message = "goes on from an earlier one, epoch-000001-step-000000000.*epoch-000002-.*is a file"
    with pytest.warns(UserWarning, match=message):
        model, resumed = train("light", 2, tmp_path, EPOCHS)
    assert different(state(model), expected) == []
    assert resumed == history
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was damaged has been written again
        Folder(tmp_path, 3).read(Position(2, 0))


def test_a_checkpoint_of_every_length_but_its_own_is_damaged(tmp_path):
    folder = Folder(tmp_path, 3)
    folder.write(Position(0, 1), {"a": 1}, [("x", np.arange(3, dtype="int8"))])
    path = folder.file(Position(0, 1))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DamagedError, match=f"a file of {length} bytes"):
            folder.read(Position(0, 1))
    path.write_bytes(content)
    manifest, arrays = folder.read(Position(0, 1))
    assert (manifest["a"], bytes(arrays["x"])) == (1, b"\0\1\2")


def test_no_readable_checkpoint_is_an_error_not_a_new_beginning(tmp_path):
    interrupt(tmp_path, 1, 1)
    damage(Folder(tmp_path, 3).file(Position(1, 0)), "cut")
    with pytest.raises(ValueError, match=r"None of the checkpoints in .*To begin anew, remove"):
        train("light", 2, tmp_path, EPOCHS)


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    unfinished = tmp_path / "epoch-000009-step-000000000.checkpoint.unfinished"
    unfinished.write_bytes(b"torn")
    (tmp_path / "notes.txt").write_text("mine")
    train("light", 1, tmp_path, 1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "epoch-000001-step-000000000.checkpoint"}


@pytest.fixture
def full_disk(monkeypatch):
    """Lets the n-th file fail when its bytes are to reach the disk, and all after it."""

    def fill(after):
        written = []

        def fsync(descriptor):
            written.append(descriptor)
            if len(written) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(checkpoints.os, "fsync", fsync)

    return fill


def test_a_full_disk_stops_training_and_leaves_what_was_there(full_disk, tmp_path):
    full_disk(after=2)  # a file and its folder
    message = "could not write .*epoch-000002-.*No space left.*whole: epoch-000001-"
    with pytest.raises(OSError, match=message) as caught:
        train("light", 1, tmp_path, EPOCHS)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000001-step-000000000.checkpoint"]


def test_on_write_error_warn_trains_on(full_disk, uninterrupted, tmp_path):
    full_disk(after=0)
    with pytest.warns(UserWarning, match=r"could not write .*No space left.*whole: none"):
        model, _ = train("light", 1, tmp_path, EPOCHS, on_write_error="warn")
    assert different(state(model), uninterrupted("light", Announcing())[0]) == []
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    folder, position = Folder(tmp_path, 3), Position(0, 1)
    folder.write(position, {}, [("x", np.zeros(3))])
    before = folder.file(position).read_bytes()
    seen = []

    def fsync(descriptor):
        seen.append(folder.file(position).read_bytes())

    monkeypatch.setattr(checkpoints.os, "fsync", fsync)
    folder.write(position, {}, [("x", np.ones(3))])
    after = folder.file(position).read_bytes()
    assert before != after
    assert seen == [before, after]  # of the file before it is renamed, of its folder after


def test_the_file_is_json_and_bytes_only(tmp_path):
    model, history = train("light", 1, tmp_path, 1)
    content = Folder(tmp_path, 3).file(Position(1, 0)).read_bytes()
    begin = len(checkpoints.MAGIC) + 8
    size = int.from_bytes(content[begin - 8 : begin], "little")
    manifest = json.loads(content[begin : begin + size])
    assert manifest["history"] == history
    assert manifest["optimizers"] == ["Adam"]
    values = [array.tobytes() for array in state(model)]
    assert content[begin + size : -32] == b"".join(values)


# What does not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"units": 4},
            r"only in the checkpoint: model sequential/dense/kernel \(36, 3\) float32, .*"
            r"only in the model: model sequential/dense/kernel \(36, 4\) float32, .* and 2 more",
        ),
        ({"optimizer": "sgd"}, r"optimizers \['Adam'\] in the checkpoint, \['SGD'\] in the model"),
    ],
)
def test_another_model_is_refused(change, message, tmp_path):
    train("light", 1, tmp_path, 1)
    model = resumable.light(1, True, **change)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"is of another run: .*{message}"):
        mr.callbacks.Resume(tmp_path).restore(model)
    assert different(before, model.get_weights()) == []


def test_the_same_variables_in_another_order_are_refused(tmp_path):
    def model(order):
        outputs = [keras.layers.Dense(2, name=name) for name in ("a", "b")]
        for layer in order:
            outputs[layer].build((None, 3))
        inputs = keras.Input((3,))
        model = keras.Model(inputs, [outputs[i](inputs) for i in order])
        model.compile("sgd", "mse")
        return model

    first = model((0, 1))
    first.optimizer.build(first.trainable_variables)
    saved = [{"name": n, "dtype": v.dtype.name, "shape": v.shape} for n, v in arrays_of(first)]
    from modreduce_keras.callbacks.training_state import differences

    assert differences(model((0, 1)), saved, metrics=False) is None
    told = differences(model((1, 0)), saved, metrics=False)
    assert "the same variables in another order, from model b/kernel" in told


def arrays_of(model):
    from modreduce_keras.callbacks.training_state import arrays

    return arrays(model, metrics=False)


def distiller_of(teacher):
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model = mr.Distiller(student, teacher, [mr.Response("kd")])
    return resumable.compiled(model, "sgd", True)


def dense(value):
    teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)], name="teacher")
    teacher.set_weights([np.full((2, 3), value), np.zeros(3)])
    return teacher


def test_another_teacher_is_refused_and_none_is_stored(tmp_path):
    x, y = np.ones((4, 2), "float32"), np.zeros(4)
    resume = mr.callbacks.Resume(tmp_path)
    distiller_of(dense(0.25)).fit(x, y, shuffle=False, verbose=0, callbacks=[resume])
    assert np.float32(0.25).tobytes() * 6 not in resume._folder.file(Position(1, 0)).read_bytes()
    assert mr.callbacks.Resume(tmp_path).restore(distiller_of(dense(0.25)))
    with pytest.raises(ValueError, match="its teacher had other weights"):
        mr.callbacks.Resume(tmp_path).restore(distiller_of(dense(0.5)))


def test_other_metrics_within_an_epoch_are_refused(tmp_path):
    interrupt(tmp_path, 0, 2, every=1)
    model = resumable.light(2, True, metrics=())
    with pytest.raises(ValueError, match=r"other metrics than the model: .*metric "):
        model.fit(
            resumable.light_data(),
            shuffle=False,
            verbose=0,
            callbacks=[mr.callbacks.Resume(tmp_path)],
        )


def test_a_model_without_variables_is_refused(tmp_path):
    train("light", 1, tmp_path, 1)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="Resume restores a model that is built"):
        mr.callbacks.Resume(tmp_path).restore(model)


def staged():
    """A distiller whose hint is trained in a stage of its own."""
    adapter = mr.adapters.get("linear_embedding")
    hint = mr.Feature("hint", at="dense", adapter=adapter, staged=True)
    student = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="dense")])
    teacher = keras.models.clone_model(student)
    teacher.set_weights([np.ones((2, 3)), np.zeros(3)])
    distiller = mr.Distiller(student, teacher, [mr.Response("kd"), hint])
    return resumable.compiled(distiller, "sgd", True)


def test_a_stage_of_pretraining_is_refused(tmp_path):
    resume = mr.callbacks.Resume(tmp_path)
    with pytest.raises(ValueError, match="Pretrain without Resume"):
        staged().pretrain(np.ones((4, 2)), callbacks=[resume])


def test_a_stage_that_was_run_need_not_be_run_again(tmp_path):
    x, y = np.ones((4, 2), "float32"), np.zeros(4)
    first, second = staged(), staged()
    first.pretrain(x, verbose=0)
    arguments = {"shuffle": False, "verbose": 0}
    first.fit(x, y, callbacks=[mr.callbacks.Resume(tmp_path)], **arguments)
    resume = mr.callbacks.Resume(tmp_path)
    assert resume.restore(second)
    history = second.fit(x, y, epochs=2, callbacks=[resume], **arguments)
    assert len(history.history["kd"]) == 2


def test_data_that_go_on_where_the_last_epoch_ended_are_refused(tmp_path):
    model = resumable.light(1, True)
    with pytest.raises(ValueError, match=r"give dataset\.take"):
        model.fit(
            resumable.light_data().repeat(),
            steps_per_epoch=2,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[mr.callbacks.Resume(tmp_path)],
        )


def test_initial_epoch_beside_a_checkpoint_is_refused(tmp_path):
    interrupt(tmp_path, 0, 2, every=1)
    model = resumable.light(1, True)
    with pytest.raises(ValueError, match="is of epoch 0, but fit begins with epoch 1"):
        model.fit(
            resumable.light_data(),
            initial_epoch=1,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[mr.callbacks.Resume(tmp_path)],
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"directory": ""}, "directory must be the path of a folder.*directory=''"),
        ({"directory": None}, "directory must be .*None"),
        ({"every": "step"}, r"every must be one of \['epoch'\].*every='step'"),
        ({"every": 0}, "every must be a positive integer.*every=0"),
        ({"keep": 0}, "keep must be a positive integer.*keep=0"),
        ({"on_write_error": "ignore"}, "on_write_error must be one of .*'ignore'"),
        ({"callbacks": [3]}, r"callbacks must be a list of Keras callbacks.*\['int'\]"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.callbacks.Resume(**{"directory": "run", **arguments})


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
