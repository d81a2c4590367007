"""Trains in a process that kills itself at a chosen moment, as `kill -9` would."""

import os
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import resumable

from modreduce_keras.callbacks import checkpoints

EPOCHS = 5


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def after_time(seconds):
    """Wherever training is so many seconds after it has begun."""
    return keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: threading.Timer(seconds, kill).start()
    )


def within_step(seconds):
    """So long after a random batch has begun."""
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: threading.Timer(seconds, kill).start()
    )


def between_epochs(part):
    """Before, within or after the validation and the checkpoint of an epoch."""
    event = ["on_test_begin", "on_test_end", "on_epoch_end", "on_epoch_begin"][int(part * 4)]
    seen = []

    def count(*_):
        seen.append(1)
        # The first epoch begins before anything is trained.
        if event != "on_epoch_begin" or len(seen) > 1:
            kill()

    callback = keras.callbacks.Callback()
    setattr(callback, event, count)
    return callback


def while_writing(part):
    """After a part of a checkpoint's bytes, or around its renaming and its folder's entry."""
    if part < 0.6:
        write = checkpoints._write

        def torn(file, manifest, arrays):
            write(file, manifest, arrays)
            file.flush()
            os.ftruncate(file.fileno(), int(file.tell() * part / 0.6))
            kill()

        checkpoints._write = torn
    elif part < 0.8:
        checkpoints._fsync_folder = lambda path: kill()  # renamed, older ones still there
    else:
        Path.replace = lambda self, target: kill()
    return keras.callbacks.Callback()


MOMENTS = {
    "time": after_time,
    "step": within_step,
    "between": between_epochs,
    "writing": while_writing,
}


def run(folder, output, every, moment=None, amount=0.0):
    """Trains, from the newest checkpoint or from the start, and writes the final state."""
    begun = any(Path(folder).glob("*.checkpoint"))
    others = [MOMENTS[moment](amount)] if moment else []
    seed = 2 if begun else 1  # other first weights: what is not restored shows
    arguments = {"every": every, "eager": True}
    model, history = resumable.train("modreduce", seed, folder, EPOCHS, *others, **arguments)
    logs = {f"log {name}": np.array(values) for name, values in history.items()}
    arrays = {f"{place:04d}": array for place, array in enumerate(resumable.state(model))}
    np.savez(output, **arrays, **logs)
