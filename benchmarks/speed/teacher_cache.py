r"""Teacher cache: what a training step costs beside that of the student alone, data included.

Each contender trains on images as training reads them, shuffled, cropped, flipped and normalized,
so that a step has everything in it that an epoch of such steps has: the pipeline and, of a cache,
its checksums and what it reads from the disk. `labels` is the student alone; `teacher` from a
teacher that runs, by KD; `cache` from the same teacher's outputs out of a `mr.data.TeacherCache`,
and `cache, tap` from those and a feature besides (hint). The images are made up: their values cost
nothing else than those of CIFAR-100, or of photographs, would. Every contender computes batch
normalizations by the same kernels, those of Keras, so that ratios tell what the teacher costs.

Ratios are taken within a round, then summarized: a contender's time over that of the student. At
most 1.05 is wanted of `cache`. Run it with nothing else on the machine:

    python -m benchmarks.speed.teacher_cache
    python -m benchmarks.speed.teacher_cache --size=224 --student=MobileNetV2:0.35 \
        --teacher=MobileNetV2:1.0 --at= --images=512 --steps=1
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common, networks

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "student", "resnet20", "Student: from mr.models, or MobileNetV2:WIDTH of keras.applications"
)
flags.DEFINE_string("teacher", "resnet56", "Teacher, likewise")
flags.DEFINE_string("at", "stage3", "Tap of both for the hint; without one there is no such row")
flags.DEFINE_integer("size", 32, "Height and width of the images", lower_bound=32)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("images", 2048, "Images in an epoch, at least a batch", lower_bound=2)
flags.DEFINE_integer("views", 2, "Augmentations of an image", lower_bound=1)
flags.DEFINE_integer("rounds", 20, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 8, "Steps of a contender in a round", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights, images and order")
flags.DEFINE_string("output", str(common.RESULTS / "teacher_cache.jsonl"), "Rows go here")

CLASSES, MARGIN = 100, 4
WANTED = {"cache": 1.05}


def data() -> tf.data.Dataset:
    """Returns batches of made-up images, augmented as those of CIFAR-100 are."""
    random = np.random.default_rng(FLAGS.seed)
    size = FLAGS.size
    images = random.integers(0, 256, size=(FLAGS.images, size, size, 3), dtype="uint8")
    labels = random.integers(CLASSES, size=FLAGS.images)
    samples = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, labels)))

    def augmented(seed, x, y):
        pixels = tf.image.pad_to_bounding_box(
            x["inputs"], MARGIN, MARGIN, size + 2 * MARGIN, size + 2 * MARGIN
        )
        pixels = tf.image.stateless_random_crop(pixels, (size, size, 3), seed)
        pixels = tf.image.stateless_random_flip_left_right(pixels, seed)
        return {**x, "inputs": tf.cast(pixels, "float32") / 128.0 - 1.0}, y

    train = mr.data.epoch_shuffle(
        samples, seed=FLAGS.seed, augment=augmented, augmentations=FLAGS.views
    )
    return train.batch(FLAGS.batch, drop_remainder=True)


def with_statistics(identifier: str, name: str) -> keras.Model:
    """Returns one of the networks with outputs that stay moderate."""
    model = networks.network(identifier, classes=CLASSES, size=FLAGS.size, name=name)
    shape = (16, FLAGS.size, FLAGS.size, 3)
    images = np.random.default_rng(FLAGS.seed).normal(size=shape)
    common.adopt_statistics(model, images.astype("float32"))
    return model


def training(model: keras.Model, train: tf.data.Dataset) -> Callable[[], Any]:
    """Returns a function that takes a batch and runs one training step."""
    own = {"fused_normalization": False} if isinstance(model, mr.Distiller) else {}
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **own,
    )
    model.make_train_function()
    iterator = iter(train.repeat().prefetch(2))
    return lambda: {name: float(v) for name, v in model.train_function(iterator).items()}


def measure() -> list[dict[str, Any]]:
    """Returns the rows, one for each contender."""
    keras.utils.set_random_seed(FLAGS.seed)
    teacher = with_statistics(FLAGS.teacher, name="teacher")
    student = with_statistics(FLAGS.student, name="student")

    def copy() -> keras.Model:
        return mr.models.copy_model(student)

    def cache(folder: str, *taps: str) -> mr.data.TeacherCache:
        made = mr.data.TeacherCache(folder, teacher, taps=taps, views=FLAGS.views)
        made.fill(data())
        return made

    def knowledge(*more: Any) -> list[Any]:
        return [mr.Response("kd"), *more]

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        logits = cache(first)
        plain = data().map(lambda x, y: (x["inputs"], y))
        contenders = {
            "labels": training(copy(), plain),
            "teacher": training(
                mr.Distiller(student=copy(), teacher=teacher, knowledge=knowledge()), data()
            ),
            "cache": training(
                mr.Distiller(student=copy(), teacher=logits, knowledge=knowledge()),
                logits.attach(data()),
            ),
        }
        if FLAGS.at:
            both, hint = cache(second, FLAGS.at), mr.Feature("hint", at=FLAGS.at)
            contenders["cache, tap"] = training(
                mr.Distiller(student=copy(), teacher=both, knowledge=knowledge(hint)),
                both.attach(data()),
            )
        logs = {name: step() for name, step in contenders.items()}
        common.require_same_logs("cache", logs["cache"], "teacher", logs["teacher"])
        times = common.interleave(contenders, rounds=FLAGS.rounds, steps=FLAGS.steps)
        bytes_of = {
            name: sum(path.stat().st_size for path in Path(folder).iterdir())
            for name, folder in (("cache", first), ("cache, tap", second))
        }
    rows = []
    for name, own in times.items():
        row = {"contender": name, **common.spread(own, "ms")}
        if name != "labels":
            ratios = common.paired_ratios(own, times["labels"])
            row |= {"ratio_to": "labels", **common.spread(ratios, "ratio")}
        if name in bytes_of:
            row |= {"bytes_per_view": round(bytes_of[name] / FLAGS.images / FLAGS.views)}
        rows.append(row | ({"wanted": WANTED[name]} if name in WANTED else {}))
    return rows


def main(_) -> None:
    rows = measure()
    names = ("student", "teacher", "at", "size", "batch", "images", "views", "rounds", "steps")
    settings = {name: FLAGS[name].value for name in names}
    about = common.metadata(FLAGS.seed)
    common.append_rows(Path(FLAGS.output), [{**row, **settings, **about} for row in rows])
    for row in rows:
        ratio = f"{row['ratio_median']:6.2f} x {row['ratio_to']}" if "ratio_to" in row else ""
        print(f"{row['contender']:12} {row['ms_median']:8.1f} ms {ratio}")


if __name__ == "__main__":
    app.run(main)
