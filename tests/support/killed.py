"""Trains in a process that kills itself at a chosen moment, as `kill -9` would."""

import json
import os
import signal
import threading
from pathlib import Path

import keras
import numpy as np
import resumable
import tensorflow as tf

from modreduce_keras.callbacks import Resume, checkpoints

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
    model.fit(dataset, epochs=3, shuffle=False, verbose=0, callbacks=[*callbacks, resume])
    np.savez(output, *resumable.state(model))
