"""CIFAR-100's input: how many times as fast images come as the fastest student takes them.

The pipeline is `mr.data.cifar100` as training reads it: shuffled, cropped, flipped, normalized,
with the index, one view and two. A student alone trains on one batch that stays, so that its time
has no input in it; those that are fastest are measured. A round runs every contender, a student for
a few steps, the pipeline for so many batches that what it has prefetched hardly counts.

Ratios are taken within a round, then summarized: the student's time for a batch over the
pipeline's. At least 10 is wanted of one view, for the fastest student. Run it with nothing else on
the machine:

    python -m benchmarks.cifar100.input --data_dir=FOLDER
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "student", ["resnet8", "wrn_16_1", "mobilenet_v2", "shufflenet_v2"], "Students, from mr.models"
)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("batches", 100, "Batches that the pipeline gives in a round", lower_bound=1)
flags.DEFINE_integer("steps", 5, "Steps of a student in a round", lower_bound=1)
flags.DEFINE_integer("rounds", 20, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and order")
flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets")
flags.DEFINE_string("output", str(common.RESULTS / "cifar100_input.jsonl"), "Rows go here")

CLASSES = 100
WANTED = 10.0
VIEWS = (1, 2)


def pipeline(views: int) -> Callable[[], Any]:
    """Returns a function that takes the batches of a round."""
    data = mr.data.cifar100(
        batch_size=FLAGS.batch,
        views=views,
        index=True,
        seed=FLAGS.seed,
        data_dir=FLAGS.data_dir,
        download=FLAGS.data_dir is None,
    )
    iterator = iter(data.repeat())
    return lambda: [None for _ in itertools.islice(iterator, FLAGS.batches)]


def training(identifier: str) -> Callable[[], Any]:
    """Returns a function that runs a round's training steps of a student, on a batch that stays."""
    random = np.random.default_rng(FLAGS.seed)
    images = random.normal(size=(FLAGS.batch, 32, 32, 3)).astype("float32")
    batch = images, random.integers(CLASSES, size=FLAGS.batch)
    student = mr.models.get(identifier, num_classes=CLASSES)
    student.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    student.make_train_function()
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: [float(student.train_function(iterator)["loss"]) for _ in range(FLAGS.steps)]


def measure() -> list[dict[str, Any]]:
    """Returns the rows, one for each contender."""
    keras.utils.set_random_seed(FLAGS.seed)
    pipelines = {f"{views} views" if views > 1 else "1 view": pipeline(views) for views in VIEWS}
    students = {identifier: training(identifier) for identifier in FLAGS.student}
    contenders = pipelines | students
    for function in contenders.values():
        function()
    times = common.interleave(contenders, rounds=FLAGS.rounds, steps=1)
    for name in times:
        times[name] = times[name] / (FLAGS.batches if name in pipelines else FLAGS.steps)
    fastest = min(students, key=lambda name: float(np.median(times[name])))
    rows = []
    for name, own in times.items():
        row = {"contender": name, **common.spread(own, "ms")}
        row |= {"images_per_second": round(1000 * FLAGS.batch / row["ms_median"])}
        if name in pipelines:
            ratios = common.paired_ratios(times[fastest], own)
            row |= {"ratio_to": fastest, **common.spread(ratios, "ratio")}
        if name == "1 view":
            row |= {"wanted": WANTED}
        rows.append(row)
    return rows


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    rows = measure()
    sizes = {name: FLAGS[name].value for name in ("batch", "batches", "steps", "rounds")}
    about = common.metadata(FLAGS.seed)
    common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
    for row in rows:
        ratio = f"{row['ratio_median']:6.1f} x {row['ratio_to']}" if "ratio_to" in row else ""
        print(f"{row['contender']:15} {row['images_per_second']:8} images/s {ratio}")


if __name__ == "__main__":
    app.run(main)
