"""Fills a teacher cache in a process that kills itself at a chosen moment, as `kill -9` would."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data import shards
from modreduce_keras.data.shard_files import DamagedError

VIEWS, SAMPLES, SHARD, BATCH = 2, 60, 7, 5


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def data():
    images = np.random.default_rng(0).normal(size=(SAMPLES, 3)).astype("float32")
    samples = mr.data.with_index(tf.data.Dataset.from_tensor_slices(images))

    def noisy(seed, x):
        return {**x, "inputs": x["inputs"] + tf.random.stateless_normal((3,), seed)}

    train = mr.data.epoch_shuffle(samples, seed=1, augment=noisy, augmentations=VIEWS)
    return train.batch(BATCH)


def cache(folder):
    keras.utils.set_random_seed(0)
    inner = [keras.layers.Dense(8, name="hidden"), keras.layers.Dense(4)]
    teacher = keras.Sequential([keras.Input((3,)), *inner])
    options = {"taps": ["hidden"], "views": VIEWS, "shard_size": SHARD}
    return mr.data.TeacherCache(folder, teacher, **options)


def after_time(part):
    """Wherever it is after a part of 50 ms from its first shard on, with a slow disk."""
    fsync, begun = os.fsync, []

    def slow(descriptor):
        if not begun:
            begun.append(threading.Timer(0.05 * part, kill))
            begun[0].start()
        time.sleep(0.01)
        fsync(descriptor)

    os.fsync = slow


def while_writing(part):
    """In its second file: a part of the bytes written, or around the renaming."""
    original, calls = Path.replace, []

    def killing(path, target):
        calls.append(1)
        if len(calls) == 2:
            if part < 0.7:
                os.truncate(path, int(path.stat().st_size * part / 0.7))
            elif part > 0.85:
                original(path, target)
            kill()
        return original(path, target)

    Path.replace = killing


MOMENTS = {"time": after_time, "writing": while_writing}


def run(folder, moment=None, part=0.0):
    """Fills the cache; says in a file how many samples the teacher ran for."""
    if moment:
        MOMENTS[moment](part)
    there = sum(len(shard.samples) for shard in whole(folder))
    ran = cache(folder).fill(data())
    Path(f"{folder}.ran").write_text(f"{there} {ran}")


def existing(folder):
    return shards.paths(Path(folder)) if Path(folder).is_dir() else []


def whole(folder):
    """Yields the shards that are not damaged."""
    for path in existing(folder):
        with contextlib.suppress(DamagedError, FileNotFoundError):
            yield shards.read(path)
