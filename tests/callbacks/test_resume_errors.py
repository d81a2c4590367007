"""After an error or Ctrl-C inside `fit`, the next one begins clean and the folder is unlocked."""

import gc
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.callbacks import lock
from modreduce_keras.callbacks.checkpoints import Folder, Position
from modreduce_keras.callbacks.epoch_start import EpochStart
from tests.support.trainings.small_trainings import assert_same, distiller, plain, values

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
Y = np.arange(12) % 3


class Break(keras.callbacks.Callback):
    """Raises Ctrl-C where it is told to, in an epoch."""

    def __init__(self, where, epoch=1):
        super().__init__()
        self.where, self.at, self.epoch = where, epoch, None

    def _reach(self, where):
        if where == self.where and self.epoch in (None, self.at):
            raise KeyboardInterrupt

    def on_train_begin(self, logs=None):
        self._reach("train_begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self._reach("epoch_begin")

    def on_train_batch_begin(self, batch, logs=None):
        self._reach("batch_begin")

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            self._reach("batch_end")

    def on_test_begin(self, logs=None):
        self._reach("validation")

    def on_epoch_end(self, epoch, logs=None):
        self._reach("epoch_end")

    def on_train_end(self, logs=None):
        self.epoch = None
        self._reach("train_end")


PLACES = [
    *("train_begin", "epoch_begin", "batch_begin", "batch_end"),
    *("validation", "epoch_end", "train_end"),
]
QUICK = [(plain, "train_begin"), (plain, "epoch_begin"), (distiller, "batch_end")]
WITH = [
    pytest.param(build, where, marks=[] if (build, where) in QUICK else pytest.mark.slow)
    for build in (plain, distiller)
    for where in PLACES
]
WITHOUT = [
    pytest.param(*case.values, resumes, marks=case.marks if resumes else pytest.mark.slow)
    for case in WITH
    for resumes in (True, False)
]


def fit(model, *callbacks, epochs=3, data=None, **arguments):
    x = (X, Y) if data is None else (data,)
    given = {"shuffle": False, "verbose": 0, "validation_data": (X, Y), **arguments}
    if data is None:
        given["batch_size"] = 4
    return model.fit(*x, epochs=epochs, callbacks=list(callbacks), **given)


def is_free(folder):
    return folder.resolve() not in lock._held


def broken(model, folder, where, *, resumes):
    """Trains until Ctrl-C; returns the error, with its frames, as a notebook keeps it."""
    if resumes:
        with pytest.raises(KeyboardInterrupt):
            fit(model, Break("epoch_begin", 1), mr.callbacks.Resume(folder, every=2))
    resume = mr.callbacks.Resume(folder, every=2)
    last = Break(where)
    # Not only callbacks that stand before Resume break off.
    order = [resume, last] if where in ("train_begin", "train_end") else [last, resume]
    try:
        fit(model, *order)
    except KeyboardInterrupt as error:
        return error
    pytest.fail("nothing was raised")


@pytest.mark.parametrize(("build", "where", "resumes"), WITHOUT)
def test_the_next_fit_without_it_begins_clean(build, where, resumes, tmp_path):
    model = build(1)
    error = broken(model, tmp_path, where, resumes=resumes)
    if build is plain:
        del error
        gc.collect()
    assert is_free(tmp_path)
    expected = build(1)
    expected.set_weights(model.get_weights())
    for one in (model, expected):
        one.optimizer.build(one.trainable_variables)
    for mine, other in zip(expected.optimizer.variables, model.optimizer.variables, strict=True):
        mine.assign(other)
    steps = []
    counting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(1)
    )
    history = fit(model, counting)
    assert (history.epoch, len(steps)) == ([0, 1, 2], 9)
    assert not isinstance(model.train_function, EpochStart)
    assert history.history == fit(expected).history
    assert_same(values(model), values(expected))


@pytest.mark.parametrize(("build", "where"), WITH)
def test_the_next_fit_with_it_goes_on(build, where, tmp_path):
    expected = build(1)
    history = fit(expected)
    model = build(1)
    error = broken(model, tmp_path, where, resumes=False)
    if where == "train_begin":  # nothing was trained
        model = build(1)
    resumed = fit(model, mr.callbacks.Resume(tmp_path, every=2))
    assert is_free(tmp_path)
    assert resumed.history == history.history
    assert_same(values(model), values(expected))
    del error
    gc.collect()


def test_another_model_in_the_same_folder_and_an_error_that_is_let_go_late(tmp_path):
    error = broken(plain(1), tmp_path, "batch_end", resumes=False)
    held = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            nonlocal error
            error = None  # the fit that was broken off goes now, and not the lock of this one
            gc.collect()
            held.append(not is_free(tmp_path))

    fit(plain(5), Watch(), mr.callbacks.Resume(tmp_path))
    assert held
    assert all(held)
    assert is_free(tmp_path)


def failing_data(at):
    """Batches, of which one cannot be read."""

    def check(i, x, y):
        tf.debugging.Assert(tf.not_equal(i, at), ["broken"])
        return x, y

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    return data.enumerate().map(lambda i, batch: check(i, *batch))


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("build", [plain, pytest.param(distiller, marks=pytest.mark.slow)])
def test_data_that_cannot_be_read(build, at, tmp_path):
    model = build(1)
    before = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError):
        fit(model, mr.callbacks.Resume(tmp_path), data=failing_data(at), validation_data=None)
    gc.collect()
    assert is_free(tmp_path)
    assert not list(tmp_path.glob("*.checkpoint"))
    expected = build(1)
    if at == 0:
        assert_same(model.get_weights(), before)
        history, other = fit(model), fit(expected)
        assert history.history == other.history
    resumed = build(1)
    fit(resumed, mr.callbacks.Resume(tmp_path))
    if at == 0:
        assert_same(values(resumed), values(expected))


def test_what_is_refused_leaves_the_folder_unlocked(tmp_path):
    fit(plain(1), mr.callbacks.Resume(tmp_path))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(ValueError, match="is of another run"):
        fit(model, mr.callbacks.Resume(tmp_path))
    assert is_free(tmp_path)
    assert fit(model).epoch == [0, 1, 2]


def test_initial_epoch_is_refused_and_nothing_stays(tmp_path):
    model = plain(1)
    with pytest.raises(KeyboardInterrupt):
        fit(model, Break("batch_end", 0), mr.callbacks.Resume(tmp_path, every=1))
    assert Folder(tmp_path, 3).positions() == [(0, 1)]
    with pytest.raises(ValueError, match="is of epoch 0, but fit begins with epoch 1"):
        fit(model, mr.callbacks.Resume(tmp_path), initial_epoch=1)
    assert fit(model).epoch == [0, 1, 2]


def test_a_stop_that_nobody_was_told_of_does_not_stop_the_next_fit():
    model = distiller(1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, on_nonfinite="stop", run_eagerly=True)
    # As Ctrl-C leaves it between the step and the message.
    model.policy.guard.note(np.array([True] * len(model.policy.guard.names)), 0)
    assert len(fit(model, epochs=1).history["loss"]) == 1


# Checkpoints


def test_a_checkpoint_that_was_renamed_is_refused(tmp_path):
    expected = plain(1)
    fit(expected)
    fit(plain(1), mr.callbacks.Resume(tmp_path), epochs=2)
    folder = Folder(tmp_path, 3)
    folder.file(Position(2, 0)).rename(folder.file(Position(9, 0)))
    model = plain(1)
    message = r"epoch-000009-.* is a file that was renamed: inside it is of epoch 2, step 0"
    with pytest.warns(UserWarning, match=message) as told:
        fit(model, mr.callbacks.Resume(tmp_path))
    assert [t.filename for t in told if "renamed" in str(t.message)] == [__file__]
    assert_same(values(model), values(expected))
    for position in (Position(1, 0), Position(2, 0), Position(3, 0)):
        folder.file(position).unlink()
    with pytest.raises(ValueError, match=r"None of the checkpoints .*renamed.* remove the folder"):
        fit(plain(1), mr.callbacks.Resume(tmp_path))


# What is not finite


@pytest.mark.parametrize("every", [pytest.param("epoch", marks=pytest.mark.slow), 2])
def test_nonfinite_steps_are_counted_over_a_kill(every, tmp_path):
    x = X.copy()
    x[5] = np.nan

    def run(folder, seed, *others):
        model = distiller(seed)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, on_nonfinite="skip", run_eagerly=True)
        callbacks = [*others, mr.callbacks.Resume(folder, every=every)]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the step that was skipped
                model.fit(x, Y, 4, 4, shuffle=False, verbose=0, callbacks=callbacks)
        except KeyboardInterrupt:
            return None
        return model.nonfinite_steps, model.skipped_steps

    expected = run(tmp_path / "once", 1)
    assert expected == ({"ce": 4, "kd": 4}, {"student": 4})
    run(tmp_path / "run", 1, Break("batch_end", 2))
    assert run(tmp_path / "run", 2) == expected
