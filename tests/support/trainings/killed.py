"""Trains in a process that kills itself at a chosen moment, as `kill -9` would."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras import whole_files
from modreduce_keras.callbacks import Resume, checkpoints
from tests.support.trainings import resumable

EPOCHS = 8


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def after_time(part):
    """Wherever training is up to four times as long after its second batch as that took."""
    ends = []

    def count(*_, **__):
        ends.append(time.perf_counter())
        if len(ends) == 2:
            threading.Timer(4 * part * (ends[1] - ends[0]), kill).start()

    return keras.callbacks.LambdaCallback(on_train_batch_end=count)


def within_step(seconds):
    """So long after a random batch has begun."""
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: threading.Timer(seconds, kill).start()
    )


def between_epochs(part):
    """Before, within or after the validation and the checkpoint of an epoch."""
    event = ["on_test_begin", "on_test_end", "on_epoch_end", "on_epoch_begin"][int(part * 4)]
    seen = []

    def count(*_, **__):
        seen.append(1)
        # The first epoch begins before anything is trained.
        if event != "on_epoch_begin" or len(seen) > 1:
            kill()

    callback = keras.callbacks.Callback()
    setattr(callback, event, count)
    return callback


def while_writing(part):
    """In its second checkpoint: after a part of the bytes, or around the renaming."""
    if part < 0.6:
        original, place, name = checkpoints._write, checkpoints, "_write"
    elif part < 0.8:  # renamed, and older ones still there
        original, place, name = whole_files._fsync_folder, whole_files, "_fsync_folder"
    else:
        original, place, name = Path.replace, Path, "replace"
    calls = []

    def killing(*arguments):
        calls.append(1)
        if len(calls) == 1:
            return original(*arguments)
        if name == "_write":
            original(*arguments)
            file = arguments[0]
            file.flush()
            os.ftruncate(file.fileno(), int(file.tell() * part / 0.6))
        return kill()

    setattr(place, name, killing)
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


def run_worker(index, ports, folder, output, kill_in=None):
    """Trains as one of several workers; kills itself at the end of an epoch, before its checkpoint.

    On several machines the shards must be of one size, so the data are cut to whole batches.
    """
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    begun = any(Path(folder).glob("*/*.checkpoint"))
    with strategy.scope():
        model = resumable.distiller(2 if begun else 1, False)
    resume = Resume(folder, every=2)
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=lambda e, _: e == kill_in and kill())]
    dataset = resumable.data().unbatch().batch(4, drop_remainder=True)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(3))
    try:
        model.fit(dataset, epochs=3, shuffle=False, verbose=0, callbacks=[*callbacks, resume])
    except RuntimeError as error:
        Path(output).with_suffix(".txt").write_text(str(error))
        raise
    np.savez(output, *resumable.state(model))
