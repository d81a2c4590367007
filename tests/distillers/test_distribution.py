"""Several replicas or machines train exactly as one, also when shards are uneven or empty."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support import programs

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
WIDTH = 6
DISTILLERS = [
    "offline",
    "rkd",
    "crd",
    "modreduce",
    "modreduce_one",
    "one",
    "okddip",
    "pcl",
    "skipping",
    "tokens",
    "staged",
    "zskt",
    "dafl",
]


# One for each way to exchange something: gradients, features, memories, statistics, attention, and
# whether a step is finite. Two replicas are compared with one for all.
ACROSS_WORKERS = ["offline", "rkd", "crd", "modreduce_one", "okddip", "skipping"]


def dense_net(width):
    inputs = keras.Input((WIDTH,))
    dense = keras.layers.Dense(width, activation="tanh", kernel_regularizer="l2", name="hidden")
    return keras.Model(inputs, keras.layers.Dense(3)(dense(inputs)))


def run(program, *names):
    done = programs.run(HERE / program, *names)
    assert done.returncode == 0, f"after {done.stdout.split()}: {done.stderr[-3000:]}"
    return done.stdout.split()


# In two programs, as many as the cores of the smallest machine.
@pytest.mark.parametrize("distillers", [DISTILLERS[::2], DISTILLERS[1::2]], ids=" ".join)
def test_two_replicas_equal_one(distillers):
    assert run("two_replicas.py", *distillers) == distillers


def test_two_workers_equal_one_process(tmp_path):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in programs.free_ports(2)]}
    workers = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = {"TF_CONFIG": json.dumps(config)}
        given = (HERE / "two_workers.py", tmp_path, *ACROSS_WORKERS)
        workers.append(programs.Program(*given, environment=environment))
    try:
        for worker in workers:
            done = worker.ended(600)
            assert done.returncode == 0, done.stderr[-3000:]
    finally:
        for worker in workers:
            worker.kill()
    run("two_workers.py", tmp_path, *ACROSS_WORKERS)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_relations_within_each_replica_are_those_of_its_part(two_replicas):
    """Without gathering, the loss is the mean of what each half of the batch says alone."""
    random = np.random.default_rng(0)
    x = random.normal(size=(40, WIDTH)).astype("float32")
    kinds = ("rkd_distance", "rkd_angle")
    student, teacher = dense_net(4), dense_net(7)
    weights = student.get_weights()
    with two_replicas.scope():
        own = dense_net(4)
        own.set_weights(weights)
        relations = [mr.Relation(kind, at="hidden", weight=1.0) for kind in kinds]
        distiller = mr.Distiller(student=own, teacher=teacher, knowledge=relations)
        distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    distiller.fit(tf.data.Dataset.from_tensor_slices(x).batch(8), shuffle=False, verbose=0)

    losses = [mr.losses.get(kind) for kind in kinds]
    readers = [mr.TapReader(model, ["hidden"]) for model in (teacher, student)]
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    for batch in np.split(x, 5):
        with tf.GradientTape() as tape:
            total = tf.add_n(student.losses)
            for half in np.split(batch, 2):
                pair = [reader(half).features["hidden"] for reader in readers]
                total += sum(tf.reduce_sum(loss.call(*pair)) for loss in losses) / 8.0
        variables = student.trainable_variables
        gradients = tape.gradient(total, variables)
        moved = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        optimizer.apply_gradients(moved)
    for ours, by_hand in zip(own.weights, student.weights, strict=True):
        np.testing.assert_allclose(ours, by_hand, atol=1e-6)
    assert not np.allclose(own.weights[0], weights[0], atol=1e-3)
