"""Tuning: search the temperature and the weight with which a student learns best.

A teacher is trained once; then every trial of the search trains a student of 1,490 parameters with
another temperature and another weight of the teacher's answers, and is judged by its accuracy on
images that neither was trained on. The search is KerasTuner's: run the same command again and it
continues where it was, and repeats nothing.

    python examples/tune_temperature.py
    python examples/tune_temperature.py --tuner=bayesian --trials=20

It prints the table of all trials, saves it as CSV with two pictures, and saves the best student as
a plain Keras model: about a minute on two cores.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
"""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app, flags, logging

import modreduce_keras as mr

BATCH, RATE = 32, 1e-2

FLAGS = flags.FLAGS
flags.DEFINE_enum("tuner", "random", ["random", "bayesian", "hyperband", "grid"], "How to search.")
flags.DEFINE_integer("trials", 6, "Trials (hyperband has its own number).", lower_bound=1)
flags.DEFINE_integer("epochs", 5, "Epochs of every student.", lower_bound=1)
flags.DEFINE_integer("images", 1500, "Training images.", 1, 8_000)
flags.DEFINE_string("output", "tuning", "Folder for the search and what it found.")


def network(*widths: int) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=widths)


def compiled(model: keras.Model) -> keras.Model:
    """Returns the model, ready to be trained."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss, metrics=["accuracy"])
    return model


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(1)
    (images, classes), test = mr.data.load_sample()
    validation = images[8_000:], classes[8_000:]
    images, classes = images[: FLAGS.images], classes[: FLAGS.images]

    output = Path(FLAGS.output)
    path = output / "teacher.keras"
    if path.exists():
        teacher = keras.saving.load_model(path)
    else:
        teacher = compiled(network(16, 32, 64))
        teacher.fit(images, classes, batch_size=BATCH, epochs=2 * FLAGS.epochs, verbose=0)
        output.mkdir(parents=True, exist_ok=True)
        teacher.save(path)

    def build(hp) -> mr.Distiller:
        space = mr.tuning.Space(hp)
        kd = mr.losses.KD(temperature=space.temperature())
        response = mr.Response(kd, weight=space.weights("kd", 0.1, 10.0)["kd"])
        return compiled(mr.Distiller(student=network(8, 16), teacher=teacher, knowledge=[response]))

    options = {"max_trials": FLAGS.trials}
    if FLAGS.tuner == "hyperband":
        options = {"max_epochs": FLAGS.epochs}
    search = mr.tuning.Search(
        build, tuner=FLAGS.tuner, directory=output, name=FLAGS.tuner, seed=1, **options
    )
    fit = {"epochs": FLAGS.epochs, "batch_size": BATCH, "verbose": 0}
    results = search.run(images, classes, validation_data=validation, **fit)

    print(f"\n{results.to_markdown()}")
    results.to_csv(output / "trials.csv")
    results.plot_pair("temperature", "weight/kd", output / "accuracy.png")
    results.plot_parallel(output / "parallel.png")

    student = search.best_student()
    student.save(output / "student.keras")
    accuracy = 100 * (student.predict(test[0], verbose=0).argmax(axis=1) == test[1]).mean()
    print(
        f"Test accuracy of the best student: {accuracy:.1f} %. Saved it as "
        f"{output / 'student.keras'}: {student.count_params():,} parameters"
    )


if __name__ == "__main__":
    app.run(main)
