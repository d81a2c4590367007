"""Photographs on a phone: a MobileNetV3 student of an EfficientNet, trained from random weights.

The photographs are 2,624 solar cells in electroluminescence (Buerhop-Lux et al., 2018; Deitsch et
al., 2019), from the package `elpv-dataset`: is a cell defective? A cell that the experts gave a
probability of at least one half counts as defective, about a third of them. A fifth of the cells
of each class is for testing, a tenth for validation, the same for all seeds.

Teacher and students see 64 × 64 pixels with random flips. The teacher, B0 with half of its
channels and blocks, was trained on all training cells. A student has few of them, drawn by its
seed: it learns from their labels alone, or from the labels and the teacher by KD, with the same
initial weights, the same order of the images and the same flips. Each student is exported in int8
and its file is verified.

    pip install elpv-dataset
    python -m benchmarks.accuracy.solar_cells --seeds=3

A run that was stopped goes on with the rows that are missing. The teacher is trained once.
"""

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common
from benchmarks.accuracy.solar_cells_table import SETTINGS, solar_cells
from modreduce_keras.keras_internals import family_of

FLAGS = flags.FLAGS
flags.DEFINE_integer("size", 64, "Height and width of the images", lower_bound=32)
flags.DEFINE_integer("labels", 480, "Training images that a student has", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 16, "Epochs of the teacher", lower_bound=1)
flags.DEFINE_integer("epochs", 30, "Epochs of a student", lower_bound=1)
flags.DEFINE_integer("batch", 32, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("seeds", 3, "Number of seeds", lower_bound=1)
flags.DEFINE_float("rate", 1e-3, "Learning rate at the start; it falls to 0 along a cosine")
flags.DEFINE_string("folder", "runs/solar_cells", "The teacher and the TFLite files go here")
flags.DEFINE_string("output", str(common.RESULTS / "solar_cells.jsonl"), "Rows go here")

METHODS = ("labels", "kd")
CLASSES = ("intact", "defective")
SPLIT_SEED = 0

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def photographs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cells, (cells, size, size, 3) from 0 to 255, and their classes, (cells,)."""
    from elpv_dataset.utils import load_dataset

    images, probability, _ = load_dataset()
    small = tf.image.resize(images[..., None], (size, size), method="area").numpy()
    return np.repeat(np.round(small).astype("uint8"), 3, axis=-1), (probability >= 0.5).astype(int)


def split(images: np.ndarray, classes: np.ndarray) -> dict[str, Split]:
    """Returns the parts `"train"`, `"validation"` and `"test"`, alike in their classes."""
    parts: dict[str, list[np.ndarray]] = {"test": [], "validation": [], "train": []}
    generator = np.random.default_rng(SPLIT_SEED)
    for one in np.unique(classes):
        own = generator.permutation(np.flatnonzero(classes == one))
        bounds = [len(own) // 5, len(own) // 5 + len(own) // 10]
        for name, rows in zip(parts, np.split(own, bounds), strict=True):
            parts[name].append(rows)
    chosen = {name: np.sort(np.concatenate(rows)) for name, rows in parts.items()}
    return {name: (images[rows], classes[rows]) for name, rows in chosen.items()}


def few(part: Split, seed: int) -> Split:
    """Returns as many images as a student has, and their classes."""
    images, classes = part
    rows = np.random.default_rng(seed).permutation(len(images))[: FLAGS.labels]
    return images[rows], classes[rows]


def flipped(seed: Any, image: Any, label: Any) -> tuple[Any, Any]:
    """Returns an image with random flips, as numbers from 0 to 255."""
    image = tf.image.stateless_random_flip_left_right(image, seed)
    image = tf.image.stateless_random_flip_up_down(image, seed + 1)
    return tf.cast(image, tf.float32), label


def batches(part: Split, seed: int) -> tf.data.Dataset:
    """Returns training data whose order and flips depend on the seed and the epoch alone."""
    dataset = tf.data.Dataset.from_tensor_slices(part)
    dataset = mr.data.epoch_shuffle(dataset, seed=seed, augment=flipped)
    return dataset.batch(FLAGS.batch, drop_remainder=True).prefetch(2)


def network(name: str, seed: int) -> keras.Model:
    """Returns the untrained `"teacher"` or `"student"`, which ends in logits."""
    keras.utils.set_random_seed(seed)
    shape = (FLAGS.size, FLAGS.size, 3)
    if name == "teacher":
        body = family_of(keras.applications.EfficientNetB0, "EfficientNet")(
            width_coefficient=0.5,
            depth_coefficient=0.5,
            default_size=FLAGS.size,
            drop_connect_rate=0.0,
            include_top=False,
            weights=None,
            input_shape=shape,
            pooling="avg",
            name="body",
        )
        # Its own head begins with large logits where there are few classes.
        logits = keras.layers.Dense(len(CLASSES), name="logits")(body.output)
        model = keras.Model(body.input, logits, name="teacher")
    else:
        model = keras.applications.MobileNetV3Small(
            alpha=0.35,
            weights=None,
            input_shape=shape,
            classes=len(CLASSES),
            classifier_activation=None,
        )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # 0.99 and 0.999 are for far longer trainings: evaluation would see stale statistics.
            layer.momentum = 0.9
    return model


def trained(model: keras.Model, part: Split, seed: int, epochs: int) -> None:
    """Trains a model or a distiller for a number of epochs."""
    steps = epochs * (len(part[0]) // FLAGS.batch)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(FLAGS.rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(batches(part, seed), epochs=epochs, shuffle=False, verbose=2)


def teacher_of(data: dict[str, Split]) -> tuple[keras.Model, dict[str, Any]]:
    """Returns the teacher, trained the first time, and what a row says of it."""
    path = Path(FLAGS.folder) / f"teacher_{FLAGS.size}_{FLAGS.teacher_epochs}.keras"
    if not path.exists():
        model = network("teacher", SPLIT_SEED)
        trained(model, data["train"], SPLIT_SEED, FLAGS.teacher_epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    teacher = keras.saving.load_model(path)
    found = accuracies(teacher, data["test"])
    return teacher, {
        "teacher": found["accuracy"],
        "teacher_balanced": found["balanced_accuracy"],
        "teacher_parameters": teacher.count_params(),
    }


def accuracies(model: keras.Model, part: Split) -> dict[str, float]:
    """Returns the accuracy, and its mean over the classes, which is 0.5 by chance."""
    images, classes = part
    found = model.predict(images.astype("float32"), batch_size=64, verbose=0).argmax(axis=-1)
    by_class = [np.mean(found[classes == one] == one) for one in np.unique(classes)]
    return {
        "accuracy": round(float(np.mean(found == classes)), 4),
        "balanced_accuracy": round(float(np.mean(by_class)), 4),
    }


def exported(student: keras.Model, images: np.ndarray, test: Split, name: str) -> dict[str, Any]:
    """Returns what the int8 file of a student keeps, its size and its time."""
    path = mr.export.to_tflite(
        student,
        Path(FLAGS.folder) / f"{name}.tflite",
        quantization="int8",
        representative=images[:200].astype("float32"),
    )
    found = mr.export.verify(
        path, student, (test[0].astype("float32"), test[1]), least_agreement=0.0
    )
    return {
        "int8_agreement": round(found.agreement, 4),
        "int8_accuracy": round(found.accuracy, 4),
        "bytes": found.size,
        "milliseconds": round(found.milliseconds, 3),
    }


def run(method: str, seed: int, data: dict[str, Split], teacher: keras.Model) -> dict[str, Any]:
    """Returns what is measured of a student."""
    student, part = network("student", seed), few(data["train"], seed)
    model = student
    if method == "kd":
        model = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    trained(model, part, seed, FLAGS.epochs)
    return {
        "parameters": student.count_params(),
        **accuracies(student, data["test"]),
        **exported(student, part[0], data["test"], f"{method}_{seed}"),
    }


def main(_: Any) -> None:
    output = Path(FLAGS.output)
    data = split(*photographs(FLAGS.size))
    settings = {name: FLAGS[name].value for name in SETTINGS}
    teacher = functools.cache(lambda: teacher_of(data))
    for seed in range(FLAGS.seeds):
        for method in METHODS:
            wanted = {"method": method, "seed": seed, **settings}
            if any(wanted.items() <= row.items() for row in common.read_rows(output)):
                continue
            model, about = teacher()
            row = {**common.metadata(seed), "method": method, **settings, **about}
            common.append_rows(output, [{**row, **run(method, seed, data, model)}])
    print(solar_cells(common.read_rows(output)))


if __name__ == "__main__":
    app.run(main)
