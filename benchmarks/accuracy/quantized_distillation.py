"""Quantized distillation: what int8 files lose when students know of the rounding and when not.

On the embedded sample, KD distills a teacher trained on 8,500 images into a student that sees
1,000 of them. Then, for each seed and each number of bits of the weights (activations have 8):

- `after training`: the trained student, quantized, its ranges those of 500 training images;
- `aware, labels`: the same, trained on for some epochs with the rounding in place, on the labels;
- `aware, distilled`: the same, distilled from the teacher in these epochs (Polino et al., 2018);

and, to compare: `float32`, the student itself; `float32, distilled on`, which is taught as long as
the last one; and `after training, TFLite's own`, for 8 bits, without this library's roundings.

Every accuracy is that of a file, run with LiteRT on the 2,000 test images. A row for each tells
how often the file agrees with the Keras model that it was made of. Rates were not searched for.

    python -m benchmarks.accuracy.quantized_distillation
"""

import math
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_multi_integer("bits", [8, 4, 3], "Of the weights", 2, 8)
flags.DEFINE_integer("seeds", 5, "Number of seeds", lower_bound=1)
flags.DEFINE_integer("first_seed", 1, "The first of them", lower_bound=0)
flags.DEFINE_integer("teacher_epochs", 8, "Epochs of the teacher", lower_bound=1)
flags.DEFINE_integer("epochs", 30, "Epochs of the student", lower_bound=1)
flags.DEFINE_integer("more_epochs", 10, "Epochs with the rounding in place", lower_bound=1)
flags.DEFINE_float("learning_rate", 2e-2, "Of Adam, at the start of its cosine", lower_bound=0)
flags.DEFINE_float("more_learning_rate", 2e-3, "The same with the rounding", lower_bound=0)
flags.DEFINE_integer("labels", 1000, "Training images of the students", 64, 8500)
flags.DEFINE_string("output", str(common.RESULTS / "quantized_distillation.jsonl"), "For the rows")

SETTINGS = (
    "teacher_epochs",
    "epochs",
    "more_epochs",
    "learning_rate",
    "more_learning_rate",
    "labels",
)
TRAINING_IMAGES, RANGE_IMAGES = 8500, 500
WIDTHS, TEACHER_WIDTHS = (8, 16, 32), (64, 128, 128)
BATCH, TEACHER_BATCH, TEACHER_RATE = 32, 128, 3e-3
REFERENCE = "float32"

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def convnet(name: str, widths: tuple[int, ...]) -> keras.Model:
    return mr.models.get("convnet", num_classes=10, widths=widths, name=name)


def train(model: keras.Model, data: Split, epochs: int, batch: int, rate: float) -> None:
    steps = epochs * math.ceil(len(data[0]) / batch)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, batch, epochs, verbose=0)


def distil(
    student: keras.Model, teacher: keras.Model, data: Split, epochs: int, rate: float
) -> None:
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
    train(distiller, data, epochs, BATCH, rate)


def measured(student: keras.Model, test: Split, **quantization: Any) -> dict[str, Any]:
    """Returns what a student's file gives on the test images."""
    with tempfile.TemporaryDirectory() as folder:
        path = mr.export.to_tflite(student, f"{folder}/student.tflite", **quantization)
        found = mr.export.verify(path, student, test)
    return {"test": found.accuracy, "agreement": found.agreement, "bytes": found.size}


def run_seed(seed: int, teacher: keras.Model, data: Split, test: Split) -> list[dict[str, Any]]:
    """Trains the students of one seed and returns their rows."""
    ranges = data[0][:RANGE_IMAGES]
    more = FLAGS.more_epochs, FLAGS.more_learning_rate

    def seeded() -> None:
        keras.utils.set_random_seed(seed + 1000)

    keras.utils.set_random_seed(seed)
    student = convnet("student", WIDTHS)
    distil(student, teacher, data, FLAGS.epochs, FLAGS.learning_rate)
    rows = [{"contender": REFERENCE, "bits": 32, **measured(student, test)}]
    own = measured(student, test, quantization="int8", representative=ranges)
    rows.append({"contender": "after training, TFLite's own", "bits": 8, **own})
    for bits in FLAGS.bits:
        for contender in ("after training", "aware, labels", "aware, distilled"):
            quantized = mr.quantize_aware(student, bits, representative=ranges)
            seeded()
            if contender == "aware, labels":
                train(quantized, data, more[0], BATCH, more[1])
            if contender == "aware, distilled":
                distil(quantized, teacher, data, *more)
            found = measured(quantized, test, quantization="int8")
            rows.append({"contender": contender, "bits": bits, **found})
    # The last, since it trains the student itself.
    seeded()
    distil(student, teacher, data, *more)
    return [*rows, {"contender": "float32, distilled on", "bits": 32, **measured(student, test)}]


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a line for each contender: its accuracy and what it has lost, over the seeds."""
    reference = {row["seed"]: row["test"] for row in rows if row["contender"] == REFERENCE}
    lost = defaultdict(list)
    for row in rows:
        name = f"{row['contender']}, {row['bits']} bits"
        lost[name].append(100 * (reference[row["seed"]] - row["test"]))
    mean = 100 * np.mean(list(reference.values()))
    return [
        f"{name:40} {mean - np.mean(own):.2f} %  lost {np.mean(own):+.2f} "
        f"± {np.std(own, ddof=min(1, len(own) - 1)):.2f}"
        for name, own in lost.items()
    ]


def main(_) -> None:
    # Every contender traces a step of its own, which TensorFlow takes for retracing.
    tf.get_logger().setLevel("ERROR")
    (images, classes), test = mr.data.load_sample()
    keras.utils.set_random_seed(0)
    teacher = convnet("teacher", TEACHER_WIDTHS)
    seen = images[:TRAINING_IMAGES], classes[:TRAINING_IMAGES]
    train(teacher, seen, FLAGS.teacher_epochs, TEACHER_BATCH, TEACHER_RATE)
    data = images[: FLAGS.labels], classes[: FLAGS.labels]
    settings = {name: FLAGS[name].value for name in SETTINGS}
    every = []
    for seed in range(FLAGS.first_seed, FLAGS.first_seed + FLAGS.seeds):
        rows = run_seed(seed, teacher, data, test)
        rows = [{**row, **settings, **common.metadata(seed)} for row in rows]
        common.append_rows(Path(FLAGS.output), rows)
        every += rows
        print(f"seed {seed}: " + ", ".join(f"{100 * row['test']:.2f}" for row in rows), flush=True)
    print("\n".join(summary(every)))


if __name__ == "__main__":
    app.run(main)
