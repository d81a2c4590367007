"""Cross-modal distillation: a student that sees grey images learns from a teacher that sees colour.

The colour is artificial: it is there to carry information that the grey image lacks. Every garment
of the sample of Fashion-MNIST is dyed in a hue that depends on its class: the ten classes stand a
tenth of the colour circle apart, and each garment is off by noise of half of that (standard
deviation), so that neighbours overlap and a hue alone names the class of two garments in three. The
largest of the three channels of a coloured image is exactly its grey image.

Labels are few: 1,000 images have one. 8,500 images, those among them, exist in both modalities.

- Two teachers, one for colour and one for grey, learn from the labelled images.
- A small grey student learns alone from the labelled images.
- Two more learn from a teacher with KD, on all pairs and without any label: from the colour
  teacher, by `mr.Distiller(..., teacher_input="colour")`, and, to tell what colour adds from what
  more images add, from the grey teacher.

All students take the same number of steps, from three seeds. It prints a table of the accuracies
on 2,000 test images, saves a student of the colour teacher as `.keras`, and loads it back as the
plain Keras model that it is, to classify grey images.

Expect 94 % of the colour teacher and 79 % of the grey one; and of the student 76 % alone, 79 % from
the grey teacher (more images) and 82 % from the colour teacher, with a spread of half a point. The
student never sees the hue, so it does not come near its teacher. The method was chosen on the 1,500
training images that are no pairs; there, on the 1,000 labelled images alone, colour did not help.
"""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags, logging

import modreduce_keras as mr

HUE_NOISE = 0.05
TEACHER_WIDTHS, STUDENT_WIDTHS = (32, 64, 64), (8, 16, 32)
TEACHER_RATE, STUDENT_RATE = 3e-3, 2e-2
BATCH = 64

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 4, "Students' epochs of all pairs.", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 20, "Teachers' epochs of the labelled.", lower_bound=1)
flags.DEFINE_integer("seeds", 3, "Repetitions of the students' training.", lower_bound=1)
flags.DEFINE_integer("pairs", 8500, "Images in both modalities.", 1, 10_000)
flags.DEFINE_integer("labels", 1000, "Images with a label, not more than pairs.", 1, 10_000)
flags.DEFINE_string("output", "cross_modal", "Folder for the student.")


class Images(NamedTuple):
    """The same garments in grey, (count, 28, 28, 1), and in colour, (count, 28, 28, 3)."""

    grey: np.ndarray
    colour: np.ndarray
    classes: np.ndarray

    def first(self, count: int) -> "Images":
        return Images(*(values[:count] for values in self))


class Result(NamedTuple):
    """A method, what its model sees, the model trained from one seed, its accuracy in percent."""

    method: str
    sees: str
    model: keras.Model
    accuracy: float


def dye(grey: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """Returns colour images whose largest channel is the grey image.

    Args:
        grey: (count, height, width, 1), float32 in [0, 1].
        classes: (count,), in [0, 9]: a garment's hue is classes / 10 plus noise.
        seed: Seed of the noise.

    Returns:
        (count, height, width, 3), float32 in [0, 1].
    """
    noise = np.random.default_rng(seed).normal(scale=HUE_NOISE, size=len(classes))
    primaries = np.array([0, 1 / 3, 2 / 3])
    distance = np.abs(((classes / 10 + noise)[:, np.newaxis] - primaries + 0.5) % 1 - 0.5)
    rgb = np.clip(2 - 6 * distance, 0, 1)
    rgb /= rgb.max(axis=1, keepdims=True)
    return grey * rgb[:, np.newaxis, np.newaxis].astype("float32")


def load_data(pairs: int) -> tuple[Images, Images]:
    """Returns the pairs to learn from and the test images, dyed."""
    train, test = (
        Images(grey, dye(grey, classes, seed), classes)
        for seed, (grey, classes) in enumerate(mr.data.load_sample())
    )
    return train.first(pairs), test


def network(channels: int, widths: tuple[int, ...], name: str) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    shape = (28, 28, channels)
    return mr.models.get("convnet", num_classes=10, widths=widths, input_shape=shape, name=name)


def train(model: keras.Model, x: Any, y: np.ndarray | None, epochs: int, rate: float) -> None:
    """Compiles and fits a network or, without labels `y`, a distiller."""
    count = len(x["grey"] if isinstance(x, dict) else x)
    decay = keras.optimizers.schedules.CosineDecay(rate, epochs * math.ceil(count / BATCH))
    loss = None if y is None else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(decay), loss)
    model.fit(x, y, epochs=epochs, batch_size=BATCH, verbose=0)


def train_teacher(sees: str, labelled: Images, epochs: int) -> keras.Model:
    """Trains a teacher, once for all seeds, on the labelled images of one modality."""
    keras.utils.set_random_seed(0)
    images = getattr(labelled, sees)
    teacher = network(images.shape[-1], TEACHER_WIDTHS, f"{sees}_teacher")
    train(teacher, images, labelled.classes, epochs, TEACHER_RATE)
    return teacher


def train_alone(labelled: Images, epochs: int, seed: int) -> keras.Model:
    """Trains a grey student on the labels."""
    keras.utils.set_random_seed(seed)
    student = network(1, STUDENT_WIDTHS, "student")
    train(student, labelled.grey, labelled.classes, epochs, STUDENT_RATE)
    return student


def train_with(
    teacher: keras.Model, sees: str, pairs: Images, epochs: int, seed: int
) -> keras.Model:
    """Trains a grey student on what a teacher says of the same garments, without labels."""
    keras.utils.set_random_seed(seed)
    colour = sees == "colour"
    distiller = mr.Distiller(
        student=network(1, STUDENT_WIDTHS, "student"),
        teacher=teacher,
        knowledge=[mr.Response(mr.losses.KD(temperature=2.0))],
        teacher_input="colour" if colour else None,
    )
    x = {"colour": pairs.colour, "grey": pairs.grey} if colour else pairs.grey
    train(distiller, x, None, epochs, STUDENT_RATE)
    return distiller.student


def accuracy(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> float:
    """Returns the percentage of the images that a model classifies correctly."""
    logits = model.predict(images, batch_size=500, verbose=0)
    return 100 * float((logits.argmax(axis=1) == classes).mean())


def print_table(results: list[Result]) -> None:
    """Prints a row for each method: the mean over its seeds, with the standard deviation."""
    print("\n| method | sees | test accuracy, % | parameters |\n|---|---|---|---|")
    for method in dict.fromkeys(result.method for result in results):
        same = [result for result in results if result.method == method]
        values = [result.accuracy for result in same]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(same) > 1 else ""
        cells = f"{np.mean(values):.1f}{spread}", f"{same[0].model.count_params():,}"
        print("|", " | ".join((method, same[0].sees, *cells)), "|")


def deploy(student: keras.Model, test: Images, path: Path) -> None:
    """Saves a student, and lets what comes back from the file classify grey images."""
    student.save(path)
    loaded = keras.saving.load_model(path)
    percent = accuracy(loaded, test.grey, test.classes)
    print(f"\n{path}, on grey images of shape {test.grey.shape[1:]}: {percent:.1f} %")


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    pairs, test = load_data(FLAGS.pairs)
    labelled = pairs.first(FLAGS.labels)
    results = []

    def record(method: str, sees: str, model: keras.Model) -> None:
        percent = accuracy(model, getattr(test, sees), test.classes)
        results.append(Result(method, sees, model, percent))
        print(f"{method}: {percent:.1f} %", flush=True)

    teachers = {}
    for sees in ("colour", "grey"):
        teachers[sees] = train_teacher(sees, labelled, FLAGS.teacher_epochs)
        record(f"Teacher, {sees}", sees, teachers[sees])
    as_many_steps = round(FLAGS.epochs * len(pairs.grey) / len(labelled.grey))
    for seed in range(1, FLAGS.seeds + 1):
        record("Student alone", "grey", train_alone(labelled, as_many_steps, seed))
        for sees, teacher in teachers.items():
            student = train_with(teacher, sees, pairs, FLAGS.epochs, seed)
            record(f"Student of the {sees} teacher", "grey", student)
    print_table(results)
    taught = next(one.model for one in results if one.method == "Student of the colour teacher")
    deploy(taught, test, folder / "student.keras")


if __name__ == "__main__":
    app.run(main)
