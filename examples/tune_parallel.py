r"""Tuning in parallel: a chief hands out the trials of a search, and workers train them.

The search is that of `tune_temperature.py`: with which temperature and which weight of the
teacher's answers does a student learn best? Here several processes share its trials. What makes
them one search is KerasTuner's: three variables of the environment, and a folder that all see.

    python examples/tune_parallel.py
    python examples/tune_parallel.py --workers=4 --trials=20

This program trains the teacher, then starts itself as a chief and two workers of this machine,
which talk over the loopback: about a minute on two cores. Nothing in `search` is for several
processes but one line, where a worker has no results. On several machines, train the teacher first
and start the same program on each, with the chief's address:

    KERASTUNER_TUNER_ID=chief KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 \
        python examples/tune_parallel.py --output=/shared/tuning
    KERASTUNER_TUNER_ID=worker_0 KERASTUNER_ORACLE_IP=10.0.0.1 KERASTUNER_ORACLE_PORT=8000 \
        python examples/tune_parallel.py --output=/shared/tuning

If a process ends early, all are stopped: run the command again, and the search continues where it
was. What the processes say to each other is not encrypted: use a network you trust.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app, flags, logging

import modreduce_keras as mr

BATCH, RATE = 32, 1e-2
ROLE = "KERASTUNER_TUNER_ID"

FLAGS = flags.FLAGS
flags.DEFINE_integer("workers", 2, "Workers to start on this machine.", lower_bound=1)
flags.DEFINE_integer("trials", 6, "Trials of all workers together.", lower_bound=1)
flags.DEFINE_integer("epochs", 5, "Epochs of every student.", lower_bound=1)
flags.DEFINE_integer("images", 1500, "Training images.", 1, 8_000)
flags.DEFINE_string("output", "tuning_parallel", "Folder for the search and what it found.")


def network(*widths: int) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=widths)


def compiled(model: keras.Model) -> keras.Model:
    """Returns the model, ready to be trained."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss, metrics=["accuracy"])
    return model


def train_teacher(path: Path) -> None:
    """Trains the one teacher that all trials have, before there are several processes."""
    keras.utils.set_random_seed(1)
    (images, classes), _ = mr.data.load_sample()
    teacher = compiled(network(16, 32, 64))
    few = images[: FLAGS.images], classes[: FLAGS.images]
    teacher.fit(*few, batch_size=BATCH, epochs=2 * FLAGS.epochs, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    teacher.save(path)


def search(teacher: keras.Model) -> None:
    """Runs in every process: it hands out trials, or trains them."""
    (images, classes), test = mr.data.load_sample()
    validation = images[8_000:], classes[8_000:]
    images, classes = images[: FLAGS.images], classes[: FLAGS.images]

    def build(hp) -> mr.Distiller:
        space = mr.tuning.Space(hp)
        kd = mr.losses.KD(temperature=space.temperature())
        response = mr.Response(kd, weight=space.weights("kd", 0.1, 10.0)["kd"])
        return compiled(mr.Distiller(student=network(8, 16), teacher=teacher, knowledge=[response]))

    output = Path(FLAGS.output)
    shared = mr.tuning.Search(build, directory=output, max_trials=FLAGS.trials, seed=1)
    fit = {"epochs": FLAGS.epochs, "batch_size": BATCH, "verbose": 0}
    results = shared.run(images, classes, validation_data=validation, **fit)
    if results is None:  # A worker: its chief has them.
        return

    print(f"\n{results.to_markdown()}")
    results.to_csv(output / "trials.csv")
    student = shared.best_student()
    student.save(output / "student.keras")
    accuracy = 100 * (student.predict(test[0], verbose=0).argmax(axis=1) == test[1]).mean()
    print(
        f"Test accuracy of the best student: {accuracy:.1f} %. Saved it as "
        f"{output / 'student.keras'}"
    )


def free_port() -> int:
    """Returns the number of a port of the loopback that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start() -> None:
    """Starts the chief and the workers, and waits for all of them."""
    place = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(free_port())}
    roles = ["chief", *(f"worker_{number}" for number in range(FLAGS.workers))]
    running = {}
    try:
        for role in roles:
            environment = os.environ | place | {ROLE: role}
            running[role] = subprocess.Popen([sys.executable, *sys.argv], env=environment)
        codes = [None]
        while None in codes and not any(codes):
            time.sleep(0.2)
            codes = [process.poll() for process in running.values()]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    if any(codes):
        early = [role for role, code in zip(roles, codes, strict=True) if code]
        sys.exit(f"Ended early: {', '.join(early)}. Run the command again, and the search goes on.")


def main(_) -> None:
    logging.set_verbosity(logging.WARNING)
    teacher = Path(FLAGS.output) / "teacher.keras"
    if ROLE in os.environ:
        search(keras.saving.load_model(teacher))
        return
    if not teacher.exists():
        train_teacher(teacher)
    start()


if __name__ == "__main__":
    app.run(main)
