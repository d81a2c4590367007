"""Deploy: a distilled student as TFLite files in four precisions, each proven to be its model.

A student that was trained by hand-picked numbers is shipped as a file that somebody else's program
runs. What is in that file is what counts: so every file is run here with LiteRT, on images that
nobody trained on, and compared with the student.

    python examples/deploy_tflite.py
    python examples/deploy_tflite.py --widths=64,128,128
    python examples/deploy_tflite.py --student=quickstart/student.keras

It trains, on the sample of Fashion-MNIST in the package, a teacher on 8,500 images and a student on
1,000 of them with KD (or loads a student), and exports the student in float32, with float16
weights, with int8 weights, and in int8 throughout, whose ranges come from 500 training images. A
last file is that of a copy which continues to learn from the teacher while its weights and
activations are rounded to int8 (`mr.quantize_aware`; a student that was loaded is its own teacher).
It prints a table of sizes, times and test accuracies, how often each file says the class that its
model says, and saves the files: two minutes on two cores.

Expect about the same accuracy in every file, and the size to fall less than the bits do, for a
small student: the shapes, scales and operations that a file holds too take some two kilobytes.
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

TEACHER_WIDTHS, BATCH = (32, 64, 64), 32
TRAINING_IMAGES, RANGE_IMAGES = 8500, 500
FILES = {
    "float32": None,
    "float16 weights": "float16",
    "int8 weights": "dynamic",
    "int8": "int8",
}

FLAGS = flags.FLAGS
flags.DEFINE_string("student", None, "A saved Keras model to export instead of training one.")
flags.DEFINE_list("widths", ["8", "16", "32"], "Channels of the student's stages.")
flags.DEFINE_integer("epochs", 30, "Epochs of the student.", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 8, "Epochs of the teacher.", lower_bound=1)
flags.DEFINE_integer("rounded_epochs", 10, "Epochs of the copy with rounding.", lower_bound=1)
flags.DEFINE_integer("images", 1000, "Training images of the students.", 1, TRAINING_IMAGES)
flags.DEFINE_integer("threads", 1, "Threads that a file may use while it is timed.", lower_bound=1)
flags.DEFINE_string("output", "deploy_tflite", "Folder for the files.")

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def train(model: keras.Model, data: Split, epochs: int, rate: float, batch: int) -> None:
    """Compiles and fits a network or a distiller."""
    steps = epochs * -(-len(data[0]) // batch)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(*data, epochs=epochs, batch_size=batch, verbose=0)


def distil(
    student: keras.Model, teacher: keras.Model, data: Split, epochs: int, rate: float
) -> None:
    """Trains a student on the labels and on what its teacher says."""
    response = mr.Response(mr.losses.KD(temperature=4.0))
    train(
        mr.Distiller(student=student, teacher=teacher, knowledge=[response]),
        data,
        epochs,
        rate,
        BATCH,
    )


def train_both(data: Split, few: Split) -> tuple[keras.Model, keras.Model]:
    """Returns a teacher, and a student that learnt from the labels and from it."""
    keras.utils.set_random_seed(0)
    teacher = mr.models.get("convnet", num_classes=10, widths=TEACHER_WIDTHS, name="teacher")
    train(teacher, data, FLAGS.teacher_epochs, 3e-3, 4 * BATCH)
    widths = tuple(int(width) for width in FLAGS.widths)
    student = mr.models.get("convnet", num_classes=10, widths=widths, name="student")
    distil(student, teacher, few, FLAGS.epochs, 2e-2)
    return teacher, student


def export(
    model: keras.Model, name: str, path: Path, test: Split, **arguments: Any
) -> mr.export.Verification:
    """Writes a file, compares it with its model, and prints a row of the table."""
    path = mr.export.to_tflite(model, path, **arguments)
    found = mr.export.verify(path, model, test, threads=FLAGS.threads)
    cells = [
        name,
        f"{found.size / 1024:.1f}",
        f"{found.milliseconds:.3f}",
        f"{100 * found.accuracy:.1f}",
        f"{100 * found.agreement:.2f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)
    return found


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    (images, classes), test = mr.data.load_sample()
    data = images[:TRAINING_IMAGES], classes[:TRAINING_IMAGES]
    few, ranges = (images[: FLAGS.images], classes[: FLAGS.images]), images[:RANGE_IMAGES]
    if FLAGS.student:
        student = teacher = keras.saving.load_model(FLAGS.student)
    else:
        teacher, student = train_both(data, few)

    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Student {student.name!r}: {student.count_params():,} parameters\n")
    print("| file | size, KiB | ms per image | test accuracy, % | agreement, % |")
    print("|---|---|---|---|---|")
    for name, quantization in FILES.items():
        path = folder / f"student_{quantization or 'float32'}.tflite"
        representative = ranges if quantization == "int8" else None
        found = export(
            student, name, path, test, quantization=quantization, representative=representative
        )
    rounded = mr.quantize_aware(student, representative=ranges)
    distil(rounded, teacher, few, FLAGS.rounded_epochs, 2e-3)
    path = folder / "student_int8_distilled.tflite"
    export(rounded, "int8, distilled on", path, test, quantization="int8")
    print(
        f"\nThe student itself: {100 * found.student_accuracy:.1f} % of {found.samples:,} test "
        f"images. Times: one image at a time, threads: {found.threads}\nFiles: {folder}/"
    )


if __name__ == "__main__":
    app.run(main)
