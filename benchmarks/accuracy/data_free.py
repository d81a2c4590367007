"""Data-free: students that never see an image of the data, beside one that does.

A convnet is trained on the embedded sample: the teacher. Then, for each seed, students of one
architecture learn from it with KD at temperature 1 and nothing else, without labels, on

- `data`: the images that the teacher was trained on,
- `noise`: uniform noise in the range of the pixels,
- `zskt`: what a generator makes that looks for disagreement,
- `dafl`: what a generator makes that the teacher is sure of,
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
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common

METHODS = ("data", "noise", "zskt", "dafl", "deep_inversion")

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("methods", [], METHODS, "What students learn on; all, if none is given")
flags.DEFINE_integer("seeds", 3, "Repetitions of the students' training", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first seed", lower_bound=0)
flags.DEFINE_list("teacher_widths", "32,64,64", "Channels of the teacher's stages")
flags.DEFINE_list("student_widths", "16,32,64", "Channels of the students' stages")
flags.DEFINE_integer("teacher_epochs", 4, "Epochs of the teacher's training", lower_bound=1)
flags.DEFINE_integer("images", 10_000, "Images that the teacher is trained on", 10, 10_000)
flags.DEFINE_integer("width", 12, "Channels of the generator's last maps", lower_bound=1)
flags.DEFINE_float("zskt_rate", 1e-3, "Learning rate of ZSKT's generator, of Adam, as published")
flags.DEFINE_float("dafl_rate", 0.2, "Of DAFL's, as in the authors' code for small grey images")
flags.DEFINE_integer("updates", 1000, "Updates of each student", lower_bound=1)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_float("rate", 2e-3, "Learning rate of students, of Adam, to 0 by a cosine")
flags.DEFINE_integer("student_updates", 5, "ZSKT's updates of the student per generator's")
flags.DEFINE_float("information", 5.0, "DAFL's weight of the information entropy")
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


def adam(updates: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(FLAGS.rate, updates))


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


def on_generated(
    student: keras.Model, teacher: keras.Model, seed: int, method: Any, rate: float
) -> None:
    distiller = mr.DataFreeDistiller(
        student=student,
        teacher=teacher,
        generator=mr.models.image_generator(SHAPE, image_range=RANGE, width=FLAGS.width),
        method=method,
        seed=seed,
    )
    distiller.compile({"student": adam(FLAGS.updates), "generator": keras.optimizers.Adam(rate)})
    turns = method.turns
    steps = FLAGS.updates * len(turns) // sum("student" in turn for turn in turns)
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
    zskt = mr.distillers.ZSKT(student_updates=FLAGS.student_updates)
    dafl = mr.distillers.DAFL(information=FLAGS.information)
    run: dict[str, Callable[[], None]] = {
        "data": lambda: on_images(student, teacher, images),
        "noise": lambda: on_noise(student, teacher, seed),
        "zskt": lambda: on_generated(student, teacher, seed, zskt, FLAGS.zskt_rate),
        "dafl": lambda: on_generated(student, teacher, seed, dafl, FLAGS.dafl_rate),
        "deep_inversion": lambda: on_inverted(student, teacher, seed),
    }
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
