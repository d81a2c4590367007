"""Prune: one student made smaller in five ways, each distilled on and run as a TFLite file.

A student that fits its task often has weights to spare. Which of them go, and what that saves, are
two questions: zeros save space where files are compressed, fewer channels save time everywhere.

    python examples/prune.py
    python examples/prune.py --sparsity=0.9 --clusters=8
    python examples/prune.py --way=zeros --way=int8

It trains, on the sample of Fashion-MNIST in the package, a teacher on 8,500 images, distils a
student on 1,000 of them, and makes from the student

- one with 80 % of its weights at zero, in the steps of a schedule,
- the same with two of four weights at zero,
- one with 16 different weights in each layer,
- one with half of its multiply-adds, of fewer channels,
- the first one again, rounded to int8 with its zeros,

each of which learns on from the teacher for as many epochs; the student itself does so too, for
comparison. It prints a table of accuracies, multiply-adds, sizes of the files, plain and after
gzip, and times per image: three minutes on two cores.

Expect the zeros and the clusters to change the size after gzip alone, and the channels to change
the time too.
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

TEACHER_WIDTHS, BATCH, TRAINING_IMAGES, RANGE_IMAGES = (32, 64, 64), 32, 8500, 500
WAYS = ["none", "zeros", "2:4", "clusters", "channels", "int8"]

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("way", WAYS, WAYS, "What makes the student smaller; all by default.")
flags.DEFINE_list("widths", ["16", "32", "64"], "Channels of the student's stages.")
flags.DEFINE_float("sparsity", 0.8, "Share of the weights that become zero.", 0.0, 0.999)
flags.DEFINE_integer("clusters", 16, "Different weights of a layer.", lower_bound=2)
flags.DEFINE_float("multiply_adds", 0.5, "Share of the multiply-adds that is left.", 0.0, 1.0)
flags.DEFINE_integer("epochs", 20, "Epochs of the student.", lower_bound=1)
flags.DEFINE_integer("more_epochs", 10, "Epochs of each smaller student.", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 6, "Epochs of the teacher.", lower_bound=1)
flags.DEFINE_integer("images", 1000, "Training images of the students.", 1, TRAINING_IMAGES)
flags.DEFINE_string("output", "prune", "Folder for the files.")

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def train(model: keras.Model, data: Split, epochs: int, rate: float, batch: int = BATCH) -> None:
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
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[response])
    train(distiller, data, epochs, rate)


def smaller_ones(student: keras.Model) -> dict[str, tuple[keras.Model, float]]:
    """Returns the smaller students by name, and the learning rate of each."""
    steps = FLAGS.more_epochs * -(-FLAGS.images // BATCH)
    # The second half of the training has all of the zeros.
    sparsity = mr.schedules.Polynomial(0.0, FLAGS.sparsity, steps=max(1, steps // 2))
    zeros = f"{100 * FLAGS.sparsity:g} % zeros"
    ways = {
        "none": ("student, distilled on", mr.models.copy_model, 5e-3),
        "zeros": (zeros, lambda model: mr.prune(model, sparsity), 2e-2),
        "2:4": ("2:4 zeros", lambda model: mr.prune(model, structure="2:4"), 5e-3),
        "clusters": (
            f"{FLAGS.clusters} clusters",
            lambda model: mr.cluster(model, FLAGS.clusters),
            5e-4,
        ),
        "channels": (
            "fewer channels",
            lambda model: mr.prune_channels(model, multiply_adds=FLAGS.multiply_adds),
            1e-2,
        ),
    }
    chosen = [ways[way] for way in ways if way in FLAGS.way]
    return {name: (smaller(student), rate) for name, smaller, rate in chosen}


def report(
    name: str, model: keras.Model, test: Split, folder: Path, quantization: str | None = None
) -> None:
    """Writes the file of a model, runs it, and prints a row of the table."""
    path = folder / f"{name.replace('%', 'percent').replace(' ', '_').replace(':', '_')}.tflite"
    mr.export.to_tflite(model, path, quantization=quantization)
    found = mr.export.verify(path, model, test, least_agreement=0.9)
    cells = [
        name,
        f"{100 * found.accuracy:.1f}",
        f"{mr.evaluation.multiply_adds(model):,}",
        f"{found.size / 1024:.1f}",
        f"{mr.compression.gzipped_size(path) / 1024:.1f}",
        f"{found.milliseconds:.3f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(0)
    (images, classes), test = mr.data.load_sample()
    data = images[:TRAINING_IMAGES], classes[:TRAINING_IMAGES]
    few = images[: FLAGS.images], classes[: FLAGS.images]
    teacher = mr.models.get("convnet", num_classes=10, widths=TEACHER_WIDTHS, name="teacher")
    train(teacher, data, FLAGS.teacher_epochs, 3e-3, 4 * BATCH)
    widths = tuple(int(width) for width in FLAGS.widths)
    student = mr.models.get("convnet", num_classes=10, widths=widths, name="student")
    distil(student, teacher, few, FLAGS.epochs, 2e-2)

    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    print("| student | test accuracy, % | multiply-adds | KiB | KiB after gzip | ms per image |")
    print("|---|---|---|---|---|---|")
    report("student", student, test, folder)
    pruned = student
    for name, (smaller, rate) in smaller_ones(student).items():
        distil(smaller, teacher, few, FLAGS.more_epochs, rate)
        report(name, smaller, test, folder)
        pruned = smaller if name.endswith("% zeros") else pruned
    if "int8" in FLAGS.way:
        rounded = mr.quantize_aware(pruned, representative=images[:RANGE_IMAGES])
        distil(rounded, teacher, few, FLAGS.more_epochs, 2e-3)
        report("zeros in int8", rounded, test, folder, "int8")
    # A model of Keras alone, which is loaded without this library.
    mr.strip(pruned).save(folder / "pruned.keras")
    print(f"\nFiles: {folder}/")


if __name__ == "__main__":
    app.run(main)
