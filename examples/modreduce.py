"""ModReduce: three students, three kinds of knowledge from a teacher, and one group.

Each student learns another kind of knowledge, as in the paper: `response` by KD, `feature`
by KD and SemCKD (which maps of the teacher each of the student's is to follow is learnt too), and
`relation` by KD and CRD (which remembers an embedding of every training image, and so needs
`mr.data.with_index`). All of them also learn from the learnt weighted average of the group, a
little at first and more and more. The student that is best in validation is saved.

    python examples/modreduce.py

It trains, on the sample of Fashion-MNIST in the package, a teacher on 8,500 images and students of
6,386 parameters on 1,000 of them: one alone, and the three of ModReduce. It prints a table of
accuracies on 1,500 validation images, by which the best student is chosen, and on 2,000 test
images: one minute on two cores.

Expect some five points more of each student in the group than of the one alone. It is one run:
differences of a point are chance, and `examples/quickstart.py` has the spread over seeds.

ModReduce: A Multi-Knowledge Distillation Framework with Online Learning, 2023.
"""

import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr

TRAINING_IMAGES = 8500
TEACHER_WIDTHS, STUDENT_WIDTHS = (64, 128, 128), (8, 16, 32)
TEACHER_BATCH, STUDENT_BATCH = 128, 64  # 64 is the paper's
TEACHER_RATE, STUDENT_RATE = 3e-3, 2e-2
STUDENTS = {"response": "KD", "feature": "KD, SemCKD", "relation": "KD, CRD"}

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 40, "Epochs of the students.", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 4, "Epochs of the teacher.", lower_bound=1)
flags.DEFINE_integer("labels", 1000, "Training images of the students.", 64, TRAINING_IMAGES)
flags.DEFINE_integer("seed", 1, "Seed of the students' weights and of the order of images.")
flags.DEFINE_string("output", "modreduce", "Folder for the best student.")

Split = tuple[np.ndarray, np.ndarray]  # images, classes


def network(widths: tuple[int, ...], name: str) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=widths, name=name)


def adam(rate: float, steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train_teacher(data: Split) -> keras.Model:
    keras.utils.set_random_seed(0)
    teacher = network(TEACHER_WIDTHS, "teacher")
    steps = FLAGS.teacher_epochs * math.ceil(len(data[0]) / TEACHER_BATCH)
    teacher.compile(adam(TEACHER_RATE, steps), cross_entropy())
    teacher.fit(*data, batch_size=TEACHER_BATCH, epochs=FLAGS.teacher_epochs, verbose=0)
    return teacher


def train_alone(data: tf.data.Dataset, steps: int) -> keras.Model:
    """Returns a student that learns from the labels only."""
    keras.utils.set_random_seed(FLAGS.seed)
    student = network(STUDENT_WIDTHS, "alone")
    student.compile(adam(STUDENT_RATE, steps), cross_entropy())
    student.fit(data, epochs=FLAGS.epochs, verbose=0)
    return student


def train_group(
    teacher: keras.Model, data: tf.data.Dataset, validation: Split, steps: int
) -> mr.ModReduce:
    """Returns ModReduce after training, with the paper's knowledge and growth."""
    keras.utils.set_random_seed(FLAGS.seed)
    distiller = mr.ModReduce(
        teacher=teacher,
        students={name: network(STUDENT_WIDTHS, name) for name in STUDENTS},
        aggregator="weighted_average",
        samples=FLAGS.labels,
        steps=steps,
    )
    optimizers = {name: adam(STUDENT_RATE, steps) for name in STUDENTS}
    optimizers["aggregator"] = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4)
    distiller.compile(optimizers, cross_entropy(), metrics=["accuracy"])
    distiller.fit(data, validation_data=validation, epochs=FLAGS.epochs, verbose=0)
    return distiller


def batches(data: tf.data.Dataset) -> tf.data.Dataset:
    return data.shuffle(FLAGS.labels, seed=FLAGS.seed).batch(STUDENT_BATCH)


def accuracy(model: keras.Model, data: Split) -> float:
    """Returns the accuracy of a plain network, in percent."""
    images, classes = data
    return 100 * (model.predict(images, batch_size=500, verbose=0).argmax(axis=1) == classes).mean()


def ensemble_accuracy(group: mr.ModReduce, data: Split) -> float:
    return 100 * group.evaluate(*data, verbose=0, return_dict=True)["ensemble/accuracy"]


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    (images, classes), test = mr.data.load_sample()
    known = images[:TRAINING_IMAGES], classes[:TRAINING_IMAGES]
    validation = images[TRAINING_IMAGES:], classes[TRAINING_IMAGES:]
    data = tf.data.Dataset.from_tensor_slices((images[: FLAGS.labels], classes[: FLAGS.labels]))
    steps = FLAGS.epochs * math.ceil(FLAGS.labels / STUDENT_BATCH)

    teacher = train_teacher(known)
    alone = train_alone(batches(data), steps)
    group = train_group(teacher, batches(mr.data.with_index(data)), validation, steps)

    print("| network | taught by | validation accuracy, % | test accuracy, % |")
    print("|---|---|---|---|")
    for model, taught in [
        (teacher, "labels"),
        (alone, "labels"),
        *((group.students[name], f"labels, {kinds}, group") for name, kinds in STUDENTS.items()),
    ]:
        own = (f"{accuracy(model, split):.1f}" for split in (validation, test))
        print(f"| {model.name} | {taught} | {' | '.join(own)} |")
    own = (f"{ensemble_accuracy(group, split):.1f}" for split in (validation, test))
    print(f"| ensemble of the three | | {' | '.join(own)} |")

    path = Path(FLAGS.output) / "student.keras"
    path.parent.mkdir(parents=True, exist_ok=True)
    group.best_student.save(path)
    print(f"\nBest in validation: {group.best_student_name}, saved as {path}")


if __name__ == "__main__":
    app.run(main)
