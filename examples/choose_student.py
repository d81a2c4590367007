"""Choosing a student: the best of a family that keeps within a budget, found by a search.

How wide and how deep should a student be, and at which resolution should it look? Here a search
(`mr.tuning.find_student`) draws students of three such choices, refuses those that are over the
budget before they are trained, and distils the others, many for a few epochs and the best of them
for more.

    python examples/choose_student.py
    python examples/choose_student.py --kib=20 --milliseconds=0.05

It trains, on the sample of Fashion-MNIST in the package, a teacher on 8,000 images, and ranks the
students on 2,000 others. It prints a table of all of them, and whether the best is too small for
its teacher (`mr.evaluation.capacity_gap`); saves it as a plain Keras model, and writes a report
with the accuracy of each over its size and its time: ten minutes on two cores. Run the same command
again and the search goes on where it was.

Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization, 2018.
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app, flags, logging

import modreduce_keras as mr

TRAINING_IMAGES, RATE = 8000, 5e-3

FLAGS = flags.FLAGS
flags.DEFINE_float("kib", 40.0, "Most KiB of the TFLite file; 0 for any.", lower_bound=0.0)
flags.DEFINE_float("multiply_adds", 3e5, "Most multiply-adds; 0 for any.", lower_bound=0.0)
flags.DEFINE_float("milliseconds", 0.0, "Most milliseconds of an image; 0 for any.", 0.0)
flags.DEFINE_integer("widest", 32, "Channels of the widest first stage.", lower_bound=4)
flags.DEFINE_integer("candidates", 20, "Students that are drawn.", lower_bound=1)
flags.DEFINE_integer("epochs", 9, "Most epochs of a student.", lower_bound=1)
flags.DEFINE_integer("teacher_epochs", 6, "Epochs of the teacher.", lower_bound=1)
flags.DEFINE_integer("images", TRAINING_IMAGES, "Training images.", 1, TRAINING_IMAGES)
flags.DEFINE_string("output", "choose_student", "Folder for the search and what it found.")


def network(*widths: int, size: int = 28) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    inner = mr.models.get("convnet", num_classes=10, widths=widths, input_shape=(size, size, 1))
    if size == 28:
        return inner
    inputs = keras.Input((28, 28, 1))
    return keras.Model(inputs, inner(keras.layers.Resizing(size, size)(inputs)))


def family(hp) -> keras.Model:
    """Returns a student of a width, a depth and a resolution."""
    width = hp.Int("width", 4, FLAGS.widest, step=2, sampling="log")
    depth = hp.Int("depth", 1, 3)
    size = hp.Choice("resolution", [14, 28])
    return network(*(width * 2**stage for stage in range(depth)), size=size)


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(1)
    (images, classes), test = mr.data.load_sample()
    validation = images[TRAINING_IMAGES:], classes[TRAINING_IMAGES:]
    train = images[: FLAGS.images], classes[: FLAGS.images]
    output = Path(FLAGS.output)
    path = output / "teacher.keras"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if path.exists():
        teacher = keras.saving.load_model(path)
    else:
        teacher = network(32, 64, 64)
        teacher.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        teacher.fit(*train, epochs=FLAGS.teacher_epochs, verbose=0)
        output.mkdir(parents=True, exist_ok=True)
        teacher.save(path)

    names = ("kib", "multiply_adds", "milliseconds")
    found = mr.tuning.find_student(
        teacher,
        family,
        budget={name: FLAGS[name].value for name in names if FLAGS[name].value},
        data=train,
        validation_data=validation,
        directory=output,
        optimizer=keras.optimizers.Adam(RATE),
        loss=loss,
        objective="val_accuracy",
        candidates=FLAGS.candidates,
        epochs=FLAGS.epochs,
        batch_size=32,
        seed=1,
    )
    print(found.to_markdown())
    found.student.save(output / "student.keras")
    made = mr.report(
        teacher=teacher, students=found.student, trials=found, data=test, path=output / "report"
    )
    gap = mr.evaluation.capacity_gap(
        teacher=teacher, students=found.student, data=train, validation_data=validation
    )
    accuracy = made.figures["student"].accuracy
    print(
        f"{gap}\n\nTest accuracy of the best student: {100 * accuracy:.1f} %. Report: {made.html}"
    )


if __name__ == "__main__":
    app.run(main)
