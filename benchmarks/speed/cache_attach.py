"""Attach: how long a large teacher cache takes to open.

The cache has the logits of a made-up teacher, in float32, of as many samples as the size asked for
holds: 1.25 million with 1,000 logits are 5 GB, the size of one view of ImageNet. The samples have
four numbers each, so that it is the cache that is measured. `warm`: its files are in the system's
memory. `cold`: the system is told to drop them first. At most 2 s is wanted.

    python -m benchmarks.speed.cache_attach
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_float("gigabytes", 5.0, "Size of the outputs", lower_bound=0)
flags.DEFINE_integer("logits", 1000, "Number of logits", lower_bound=1)
flags.DEFINE_integer("batch", 64, "Samples in a batch", lower_bound=1)
flags.DEFINE_integer("rounds", 20, "How often it is opened, warm and cold", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the teacher's weights")
flags.DEFINE_string("output", str(common.RESULTS / "cache_attach.jsonl"), "Rows go here")

WANTED = 2.0


def data(samples: int, batch: int) -> tf.data.Dataset:
    """Returns batches of samples that differ."""

    def numbered(index: Any) -> Any:
        digits = tf.stack([index // 1000**power % 1000 for power in range(4)], axis=-1)
        return {"inputs": tf.cast(digits, "float32") / 1000, "sample_index": index}

    return tf.data.Dataset.range(samples).batch(batch).map(numbered)


def drop(files: list[Path]) -> None:
    """Tells the system that files need not stay in its memory."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows, warm and cold."""
    keras.utils.set_random_seed(FLAGS.seed)
    teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(FLAGS.logits)])
    cache = mr.data.TeacherCache(folder, teacher)
    samples = max(FLAGS.batch, round(FLAGS.gigabytes * 1e9 / 4 / FLAGS.logits))
    cache.fill(data(samples, 4096))
    files, seconds = list(folder.iterdir()), {"warm": [], "cold": []}
    train = data(samples, FLAGS.batch)
    cache.attach(train)
    for _ in range(FLAGS.rounds):
        for state, times in seconds.items():
            if state == "cold":
                drop(files)
            start = time.perf_counter()
            cache.attach(train)
            times.append(time.perf_counter() - start)
    about = {
        "samples": samples,
        "files": len(files),
        "gigabytes": round(sum(path.stat().st_size for path in files) / 1e9, 3),
        "wanted": WANTED,
    }
    return [
        {"state": state, **common.spread(np.array(times), "seconds"), **about}
        for state, times in seconds.items()
    ]


def main(_) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    settings = {name: FLAGS[name].value for name in ("logits", "batch", "rounds")}
    about = common.metadata(FLAGS.seed)
    common.append_rows(Path(FLAGS.output), [{**row, **settings, **about} for row in rows])
    for row in rows:
        print(f"{row['state']:6} {row['seconds_median']:6.2f} s, {row['gigabytes']} GB")


if __name__ == "__main__":
    app.run(main)
