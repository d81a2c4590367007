"""Without the data: a student learns from a teacher alone, on images that nobody took.

The training data of a teacher may be gone, or private. A generator then makes images for which
student and teacher disagree (ZSKT), or of which the teacher is sure (DAFL), in both cases with the
batch statistics that the teacher's normalizations know; or the pixels themselves are optimized for
these (DeepInversion). The student learns what the teacher says about these images, and sees no
other.

    python examples/data_free.py
    python examples/data_free.py --method=dafl --method=deep_inversion

It trains a teacher on the sample of Fashion-MNIST in the package and takes the images away. Then it
trains a student by each method, and one on uniform noise for comparison. It prints a table of
accuracies on 2,000 test images, and saves what the generators make in each epoch, and the students.

Fifteen hundred updates are few: the papers train for tens of thousands. Expect a student far below
one that has the data, and raise --epochs to come nearer. What this protects of the data, and what
it does not, is in the guide "Without the data".

Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching, 2019; Chen et
al., Data-Free Learning of Student Networks, 2019; Yin et al., Dreaming to Distill, 2020.
"""

import math
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr

GENERATORS = {  # and the learning rates of their generators
    "zskt": (mr.distillers.ZSKT(student_updates=2, statistics=10.0), 1e-2),
    "dafl": (mr.distillers.DAFL(statistics=10.0), 1e-2),
}
NOISE, INVERSION = "noise", "deep_inversion"

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("method", ["zskt"], [*GENERATORS, INVERSION], "How images are made.")
flags.DEFINE_list("teacher", "32,64,64", "Widths of the teacher's stages.")
flags.DEFINE_list("student", "16,32,64", "Widths of the student's stages.")
flags.DEFINE_integer("images", 10_000, "Training images of the teacher.", 10, 10_000)
flags.DEFINE_integer("teacher_epochs", 4, "Epochs of the teacher.", lower_bound=1)
flags.DEFINE_integer("epochs", 10, "Epochs of every student.", lower_bound=1)
flags.DEFINE_integer("steps", 150, "Updates of the student in an epoch.", lower_bound=1)
flags.DEFINE_integer("width", 32, "Channels of the generator's last maps.", lower_bound=1)
flags.DEFINE_integer("inverted", 512, "Images of DeepInversion.", lower_bound=2)
flags.DEFINE_integer("inversion_steps", 200, "Its steps for each batch.", lower_bound=1)
flags.DEFINE_string("output", "data_free", "Folder for pictures and students.")

BATCH, RATE, SHAPE, RANGE = 64, 2e-3, (28, 28, 1), (0.0, 1.0)


def network(widths: list[str], name: str) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    keras.utils.set_random_seed(1)
    return mr.models.get("convnet", num_classes=10, widths=list(map(int, widths)), name=name)


def adam(steps: int, rate: float = RATE) -> keras.optimizers.Optimizer:
    """Returns an optimizer whose learning rate falls to 0."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def cross_entropy() -> keras.losses.Loss:
    """Returns the loss on labels, which only the teacher learns from."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train_teacher() -> tuple[keras.Model, tf.data.Dataset]:
    """Returns the teacher and the test images: the training images are left here."""
    (images, classes), test = mr.data.load_sample()
    images, classes = images[: FLAGS.images], classes[: FLAGS.images]
    teacher = network(FLAGS.teacher, "teacher")
    teacher.compile(
        optimizer=adam(FLAGS.teacher_epochs * math.ceil(len(images) / BATCH)),
        loss=cross_entropy(),
        metrics=["accuracy"],
    )
    teacher.fit(images, classes, batch_size=BATCH, epochs=FLAGS.teacher_epochs, verbose=0)
    return teacher, tf.data.Dataset.from_tensor_slices(test).batch(500)


def train_on_generated(method: str, student: keras.Model, teacher: keras.Model) -> None:
    """Trains a student and the generator that makes its images."""
    generator = mr.models.image_generator(SHAPE, image_range=RANGE, width=FLAGS.width)
    given, rate = GENERATORS[method]
    distiller = mr.DataFreeDistiller(
        student=student, teacher=teacher, generator=generator, method=given
    )
    turns = distiller.method.turns
    steps = FLAGS.steps * len(turns) // sum("student" in turn for turn in turns)
    own = FLAGS.epochs * steps * sum("generator" in turn for turn in turns) // len(turns)
    # At a constant rate, the generator would win in the end, when the student hardly learns.
    distiller.compile({"student": adam(FLAGS.epochs * FLAGS.steps), "generator": adam(own, rate)})
    pictures = mr.callbacks.GeneratedImages(Path(FLAGS.output) / method, count=36)
    distiller.fit(
        steps_per_epoch=steps,
        batch_size=BATCH,
        epochs=FLAGS.epochs,
        callbacks=[pictures],
        verbose=0,
    )


def train_on_images(student: keras.Model, teacher: keras.Model, images: tf.data.Dataset) -> None:
    """Trains a student on images as an ordinary distiller does, without labels."""
    kd = mr.Response(mr.losses.KD(temperature=1.0))
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[kd])
    distiller.compile(adam(FLAGS.epochs * FLAGS.steps))
    distiller.fit(images, epochs=FLAGS.epochs, shuffle=False, verbose=0)


def noise() -> tf.data.Dataset:
    """Returns batches of uniform noise in the range of the pixels."""

    def uniform(seed, count):
        return tf.random.stateless_uniform((count, *SHAPE), seed, *RANGE)

    return mr.data.sampled(uniform, batch_size=BATCH, steps=FLAGS.steps)


def inverted(teacher: keras.Model) -> tf.data.Dataset:
    """Returns an epoch of images that DeepInversion makes once."""
    images, _ = mr.data.deep_inversion(
        teacher,
        samples=FLAGS.inverted,
        image_range=RANGE,
        steps=FLAGS.inversion_steps,
        batch_size=128,
        path=Path(FLAGS.output) / f"{INVERSION}.npz",
    )
    repeated = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images)).repeat()
    return repeated.batch(BATCH).take(FLAGS.steps)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    Path(FLAGS.output).mkdir(parents=True, exist_ok=True)
    teacher, test = train_teacher()
    accuracies = {"teacher": teacher.evaluate(test, verbose=0, return_dict=True)["accuracy"]}
    for method in [NOISE, *FLAGS.method]:
        student = network(FLAGS.student, f"student_{method}")
        if method in GENERATORS:
            train_on_generated(method, student, teacher)
        else:
            train_on_images(student, teacher, noise() if method == NOISE else inverted(teacher))
        student.save(Path(FLAGS.output) / f"{method}.keras")
        student.compile(loss=cross_entropy(), metrics=["accuracy"])
        accuracies[method] = student.evaluate(test, verbose=0, return_dict=True)["accuracy"]
        print(f"{method}: {100 * accuracies[method]:.1f} %", flush=True)

    print("\n| student learns on | test accuracy, % |\n|---|---|")
    for name, value in accuracies.items():
        print(f"| {name} | {100 * value:.1f} |")


if __name__ == "__main__":
    app.run(main)
