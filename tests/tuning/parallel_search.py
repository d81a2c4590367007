"""A search in several processes: what the chief and each worker of `test_parallel.py` run."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

import modreduce_keras as mr

ROLE, TRIALS = os.environ.get("KERASTUNER_TUNER_ID", "alone"), 4
OTHER = {"first": "second", "second": "first"}
FAILS = "fails"  # names the worker whose first trial fails


def network(name):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(inputs), name=name)


def is_first(path):
    """True for the one process that creates `path`, however close the other is behind."""
    try:
        with path.open("x") as file:
            file.write(ROLE)
    except FileExistsError:
        return False
    return True


def main(folder, how):
    keras.utils.set_random_seed(0)
    teacher, log = network("teacher"), Path(folder, f"{ROLE}.log")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    y = x[:, :3].argmax(axis=1)

    def build(hp):
        kd = mr.losses.KD(temperature=mr.tuning.Space(hp).temperature())
        distiller = mr.Distiller(
            student=network("student"), teacher=teacher, knowledge=[mr.Response(kd)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
        return distiller

    def fit(hp, distiller, *args, **kwargs):
        with log.open("a") as file:
            file.write(f"{hp.values['temperature']}\n")
        # However late the other worker begins, it has a trial of its own.
        while ROLE in OTHER and not Path(folder, f"{OTHER[ROLE]}.log").exists():
            time.sleep(0.1)
        if ROLE == "second" and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "failing" and is_first(Path(folder, FAILS)):
            raise RuntimeError("no memory")
        return distiller.fit(*args, **kwargs)

    search = mr.tuning.Search(
        mr.tuning.DistillerHyperModel(build, fit=fit),
        directory=folder,
        max_trials=TRIALS,
        seed=1,
    )
    results = search.run(x, y, validation_data=(x, y), verbose=0)
    if results is None:
        try:
            search.best_student()
        except RuntimeError as error:
            print(error)
        return
    student = search.best_student()
    accuracy = float((student.predict(x, verbose=0).argmax(axis=1) == y).mean())
    print(json.dumps({"rows": results.rows, "accuracy": accuracy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
