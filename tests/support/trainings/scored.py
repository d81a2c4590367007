"""Runs that a callback scores, kills and resumes."""

import keras
import numpy as np

import modreduce_keras as mr

EPOCHS = 6


X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")


Y = np.arange(12) % 3


class KilledError(Exception):
    """Stands for a kill."""


class Scores(keras.callbacks.Callback):
    """Logs a validation loss that is best in epoch 1; after a given epoch begins, kills."""

    def __init__(self, kill_in=None, scores=(3.0, 1.0, 2.0, 2.5, 2.5, 2.5)):
        super().__init__()
        self.kill_in, self.scores = kill_in, scores

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.kill_in:
            raise KilledError

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.scores[epoch]


def train(build, folder, callback, *, kill_in=None, seed=1, epochs=EPOCHS, **arguments):
    """Trains with a callback that `Resume` stores; returns the model and its history."""
    resume = mr.callbacks.Resume(folder, callbacks=[callback])
    model = build(seed, arguments.pop("optimizer", None))
    callbacks = [Scores(kill_in), callback, resume]
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    try:
        history = model.fit(X, Y, epochs=epochs, callbacks=callbacks, **fit)
    except KilledError:
        return model, None
    return model, history


def stopping():
    return keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
