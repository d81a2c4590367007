"""Data-free: students that never see an image of the data, beside one that does.

A convnet is trained on the embedded sample: the teacher. Then, for each seed, students of one
architecture learn from it with KD at temperature 1 and nothing else, without labels, on

- `data`: the images that the teacher was trained on,
- `noise`: uniform noise in the range of the pixels,
- `zskt`: what a generator makes that looks for disagreement,
- `dafl`: what a generator makes that the teacher is sure of,
- `zskt_statistics`, `dafl_statistics`: the same, where the images also have the batch statistics of
  the teacher's data,
- `deep_inversion`: images optimized for the teacher's batch statistics.

All students take the same number of updates. The row's number is the accuracy on the 2,000 test
images, which no training has seen; the seconds are those of the whole training, with what makes the
images.

    python -m benchmarks.accuracy.data_free --seeds=3
    python -m benchmarks.accuracy.data_free --methods=zskt --updates=2000
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common


class Generated(NamedTuple):
    """How a generator is trained.

    Attributes:
        method: What for, and in which steps.
        rate: Learning rate of Adam.
        falls: Whether it falls to 0 by a cosine, as the student's does.
    """

    method: Any
    rate: float
    falls: bool


ZSKT, DAFL = mr.distillers.ZSKT, mr.distillers.DAFL
GENERATED = {
    "zskt": Generated(ZSKT(student_updates=5), 1e-3, falls=True),
    "dafl": Generated(DAFL(), 0.2, falls=False),
    "zskt_statistics": Generated(ZSKT(student_updates=2, statistics=10.0), 1e-2, falls=True),
    "dafl_statistics": Generated(DAFL(statistics=10.0), 1e-2, falls=True),
}
"""The first two as the authors train them: DAFL's is the rate for small grey images."""
METHODS = ("data", "noise", *GENERATED, "deep_inversion")

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("methods", [], METHODS, "What students learn on; all, if none is given")
flags.DEFINE_integer("seeds", 3, "Repetitions of the students' training", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first seed", lower_bound=0)
flags.DEFINE_list("teacher_widths", "32,64,64", "Channels of the teacher's stages")
flags.DEFINE_list("student_widths", "16,32,64", "Channels of the students' stages")
flags.DEFINE_integer("teacher_epochs", 4, "Epochs of the teacher's training", lower_bound=1)
flags.DEFINE_integer("images", 10_000, "Images that the teacher is trained on", 10, 10_000)
flags.DEFINE_integer("updates", 1000, "Updates of each student", lower_bound=1)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_float("rate", 2e-3, "Learning rate of students, of Adam, to 0 by a cosine")
flags.DEFINE_integer("width", 12, "Channels of the generator's last maps", lower_bound=1)
flags.DEFINE_integer("inverted", 512, "Images of DeepInversion", lower_bound=2)
flags.DEFINE_integer("inversion_steps", 200, "Steps of DeepInversion per batch", lower_bound=1)
flags.DEFINE_string("output", str(common.RESULTS / "data_free.jsonl"), "Rows go here")

SHAPE, RANGE = (28, 28, 1), (0.0, 1.0)


def network(widths: list[str], seed: int, name: str) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return mr.models.get("convnet", num_classes=10, widths=list(map(int, widths)), name=name)


def trained_teacher(images: np.ndarray, classes: np.ndarray) -> keras.Model:
    teacher = network(FLAGS.teacher_widths, 0, "teacher")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(adam(FLAGS.teacher_epochs * math.ceil(len(images) / 64)), loss)
    teacher.fit(images, classes, batch_size=64, epochs=FLAGS.teacher_epochs, verbose=0)
    return teacher


def adam(updates: int, rate: float | None = None) -> keras.optimizers.Optimizer:
    """Returns Adam whose rate, the students' if none is given, falls to 0 by a cosine."""
    rate = FLAGS.rate if rate is None else rate
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, updates))


def accuracy(model: keras.Model, test: tuple[np.ndarray, np.ndarray]) -> float:
    return float((model.predict(test[0], verbose=0, batch_size=500).argmax(1) == test[1]).mean())


def on_images(student: keras.Model, teacher: keras.Model, images: Any) -> None:
    """Trains on a dataset of images, or on arrays of them again and again."""
    kd = mr.Response(mr.losses.KD(temperature=1.0))
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[kd])
    distiller.compile(adam(FLAGS.updates))
    if isinstance(images, np.ndarray):
        images = tf.data.Dataset.from_tensor_slices(images)
        images = images.shuffle(10_000, seed=0).repeat().batch(FLAGS.batch).take(FLAGS.updates)
    distiller.fit(images, shuffle=False, verbose=0)


def on_noise(student: keras.Model, teacher: keras.Model, seed: int) -> None:
    def uniform(key: Any, count: int) -> Any:
        return tf.random.stateless_uniform((count, *SHAPE), key, *RANGE)

    drawn = mr.data.sampled(uniform, batch_size=FLAGS.batch, steps=FLAGS.updates, seed=seed)
    on_images(student, teacher, drawn)


def on_generated(student: keras.Model, teacher: keras.Model, seed: int, how: Generated) -> None:
    distiller = mr.DataFreeDistiller(
        student=student,
        teacher=teacher,
        generator=mr.models.image_generator(SHAPE, image_range=RANGE, width=FLAGS.width),
        method=how.method,
        seed=seed,
    )
    turns = how.method.turns
    steps = FLAGS.updates * len(turns) // sum("student" in turn for turn in turns)
    own = steps * sum("generator" in turn for turn in turns) // len(turns)
    optimizer = adam(own, how.rate) if how.falls else keras.optimizers.Adam(how.rate)
    distiller.compile({"student": adam(FLAGS.updates), "generator": optimizer})
    distiller.fit(steps_per_epoch=steps, batch_size=FLAGS.batch, verbose=0)


def on_inverted(student: keras.Model, teacher: keras.Model, seed: int) -> None:
    images, _ = mr.data.deep_inversion(
        teacher,
        samples=FLAGS.inverted,
        image_range=RANGE,
        steps=FLAGS.inversion_steps,
        batch_size=128,
        seed=seed,
    )
    on_images(student, teacher, images)


def trained(method: str, teacher: keras.Model, images: np.ndarray, seed: int) -> keras.Model:
    """Returns the student of a method."""
    student = network(FLAGS.student_widths, seed, "student")
    run: dict[str, Callable[[], None]] = {
        "data": lambda: on_images(student, teacher, images),
        "noise": lambda: on_noise(student, teacher, seed),
        "deep_inversion": lambda: on_inverted(student, teacher, seed),
    }
    if method in GENERATED:
        on_generated(student, teacher, seed, GENERATED[method])
    else:
        run[method]()
    return student


def main(_) -> None:
    tf.get_logger().setLevel("ERROR")  # every method traces a step of its own
    (images, classes), test = mr.data.load_sample()
    images, classes = images[: FLAGS.images], classes[: FLAGS.images]
    teacher = trained_teacher(images, classes)
    of_teacher = round(accuracy(teacher, test), 4)
    print(f"teacher: {100 * of_teacher:.1f} %", flush=True)
    sizes = {name: FLAGS[name].value for name in ("updates", "batch", "inverted")}
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
        for method in FLAGS.methods or METHODS:
            start = time.perf_counter()
            student = trained(method, teacher, images, seed)
            row = {
                "method": method,
                "accuracy": round(accuracy(student, test), 4),
                "teacher": of_teacher,
                "seconds": round(time.perf_counter() - start, 1),
            }
            rows = [{**row, **sizes, **common.metadata(seed)}]
            common.append_rows(Path(FLAGS.output), rows)
            print(f"{method:15} seed {seed}: {100 * row['accuracy']:.1f} %", row["seconds"], "s")


if __name__ == "__main__":
    app.run(main)
