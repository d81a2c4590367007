"""Dropped models: how much memory each training of a new model leaves behind in a process.

A search trains hundreds of models in one process, and drops each. TensorFlow keeps every graph with
a custom gradient for good, and with it the weights that it reads; Keras' cross-entropy from logits
has one. Distillers let such graphs be freed when `fit` ends. Here students are trained one after
another, by Keras alone or by a distiller with a teacher of the same size. After each, the session
is cleared, garbage is collected, and the process's resident set is read. The figure is the growth
from the third training to the last, for each training, beside the size of the weights.

    python -m benchmarks.checks.dropped_models --contender=keras
    python -m benchmarks.checks.dropped_models --contender=distiller

Each contender needs a process of its own, because a distiller also frees what others have left.
"""

import gc
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

import modreduce_keras as mr
from benchmarks import common

CONTENDERS = {"keras": "Keras alone", "distiller": "Distiller"}
SETTLING = 2

FLAGS = flags.FLAGS
flags.DEFINE_enum("contender", "distiller", list(CONTENDERS), "What trains the students")
flags.DEFINE_integer("models", 20, "Number of trainings", lower_bound=SETTLING + 2)
flags.DEFINE_integer("width", 2000, "Width of the two hidden layers", lower_bound=1)
flags.DEFINE_string("output", str(common.RESULTS / "dropped_models.jsonl"), "Rows go here")


def network(width: int) -> keras.Model:
    hidden = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((16,)), *hidden, keras.layers.Dense(10)])


def trained(contender: str, width: int) -> float:
    """Trains a new model for one step, and returns the MiB of its weights and its teacher's."""
    models = [network(width)]
    model = models[0]
    if contender == "distiller":
        models.append(network(width))
        model = mr.Distiller(student=models[0], teacher=models[1])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(np.zeros((20, 16), "float32"), np.arange(20) % 10, batch_size=20, verbose=0)
    return sum(weights.nbytes for one in models for weights in one.get_weights()) / 2**20


def main(_) -> None:
    keras.utils.set_random_seed(0)
    resident = []
    for _ in range(FLAGS.models):
        weights = trained(FLAGS.contender, FLAGS.width)
        keras.backend.clear_session()
        gc.collect()
        resident.append(common.resident())
    growth = (resident[-1] - resident[SETTLING]) / (FLAGS.models - 1 - SETTLING)
    row = {
        **common.metadata(0),
        "contender": CONTENDERS[FLAGS.contender],
        "models": FLAGS.models,
        "width": FLAGS.width,
        "weights_mib": round(weights, 1),
        "mib_per_model": round(growth, 2),
        "mib": round(resident[-1], 1),
    }
    common.append_rows(Path(FLAGS.output), [row])
    print(f"{row['contender']}: {growth:+.2f} MiB left by each training of {weights:.1f} MiB")


if __name__ == "__main__":
    app.run(main)
