"""What `Resume` keeps of callbacks and logs, and what it refuses to keep."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.trainings.scored import EPOCHS, Scores, X, Y, stopping, train
from tests.support.trainings.small_trainings import plain


class Telling(keras.callbacks.Callback):
    """Says itself what is to be kept."""

    def __init__(self):
        super().__init__()
        self.stream, self.total = io.StringIO(), 0

    def on_epoch_end(self, epoch, logs=None):
        self.total += epoch

    def get_state(self):
        return {"total": self.total}

    def set_state(self, state):
        self.total = state["total"]


def test_a_class_that_says_what_is_kept(tmp_path):
    train(plain, tmp_path, Telling(), kill_in=4)
    after = Telling()
    train(plain, tmp_path, after, seed=2)
    assert after.total == 15


def holding(**attributes):
    class Holding(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            vars(self).update(attributes)

    return Holding()


class Late(keras.callbacks.Callback):
    """Comes by something that cannot be kept in its first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.stream = io.StringIO()


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (holding(stream=io.StringIO()), r"Received: Holding\.stream, which is a _io\.StringIO"),
        (holding(a={"b": [0, object()]}), r"Holding\.a\['b'\]\[1\], which is a object"),
        (holding(lock=[iter(())]), r"Holding\.lock\[0\], which is a tuple_iterator"),
    ],
    ids=["stream", "nested", "iterator"],
)
def test_what_cannot_be_kept_is_refused_when_training_begins(callback, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(plain, tmp_path, callback, epochs=1)
    assert not list(tmp_path.glob("*.checkpoint"))


def test_what_comes_later_is_refused_when_it_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"get_state\(\) and set_state.*Late\.stream, which is"):
        train(plain, tmp_path, Late(), epochs=1)


def test_a_log_that_cannot_be_kept_is_refused(tmp_path):
    strange = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(odd=object())
    )
    with pytest.raises(ValueError, match="the log 'odd', which is a object"):
        train(plain, tmp_path, strange, epochs=1)


def test_logs_that_are_no_numbers_come_back(tmp_path):
    class Odd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs.update(matrix=np.eye(2) * epoch, tensor=tf.constant(epoch), text="a")

    train(plain, tmp_path, Odd(), kill_in=2)
    _, history = train(plain, tmp_path, Odd())
    assert history.history["text"] == ["a"] * EPOCHS
    assert [int(one) for one in history.history["tensor"]] == list(range(EPOCHS))
    assert [one[1, 1] for one in history.history["matrix"]] == list(range(EPOCHS))


def test_what_is_handed_over_again_is_not_kept(tmp_path):
    class Watching(keras.callbacks.Callback):
        def __init__(self, data, stream):
            super().__init__()
            self.data, self.stream, self.losses = data, stream, []

        def on_epoch_end(self, epoch, logs=None):
            self.losses.append(logs["loss"])

    def make():
        return Watching(tf.data.Dataset.range(3), io.StringIO())

    train(plain, tmp_path, make(), kill_in=3)
    after = make()
    _, history = train(plain, tmp_path, after)
    assert after.losses == history.history["loss"]


def test_named_callbacks_stand_before_it_in_fit(tmp_path):
    stop = stopping()
    resume = mr.callbacks.Resume(tmp_path, callbacks=[stop])
    with pytest.raises(ValueError, match="Received: EarlyStopping, which stands after it"):
        plain(1).fit(X, Y, verbose=0, shuffle=False, callbacks=[resume, stop])
    with pytest.raises(ValueError, match="Received: EarlyStopping, which is not among them"):
        plain(1).fit(X, Y, verbose=0, shuffle=False, callbacks=[resume])
    plain(1).fit(X, Y, verbose=0, shuffle=False, callbacks=[Scores(), stop, resume])


def test_an_object_that_the_restart_lacks_is_named(tmp_path):
    class Lazy(keras.callbacks.Callback):
        def __init__(self, is_there):
            super().__init__()
            self.mean = keras.metrics.Mean() if is_there else None

    train(plain, tmp_path, Lazy(True), kill_in=1)
    with pytest.raises(ValueError, match=r"Lazy\.mean was a Mean .* in the constructor or in on_"):
        train(plain, tmp_path, Lazy(False))
