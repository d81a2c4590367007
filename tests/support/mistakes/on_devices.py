"""Mistakes with strategies, on several devices and machines."""

import keras
import tensorflow as tf

import modreduce_keras as mr
from tests.support.mistakes.workbench import Mistake

ADDRESSES = ["127.0.0.1:1", "127.0.0.1:2"]


def cluster(task, workers=ADDRESSES):
    return {"cluster": {"worker": workers}, "task": task}


def outside(b, **parts):
    """Makes everything in the scope of two replicas, but some parts."""
    with b.replicas.scope():
        return b.compiled(b.distiller(**{"student": b.net(), **parts}))


def compiled_outside(b):
    with b.replicas.scope():
        distiller = b.distiller()
    return b.fit(distiller=b.compiled(distiller, optimizer=keras.optimizers.SGD(0.1, 0.9)))


def trained_inside(b):
    distiller = b.compiled()
    with b.replicas.scope():
        return b.fit(distiller=distiller)


def knowledge_outside(b):
    kd = mr.Response("kd")
    with b.replicas.scope():
        return b.compiled(b.distiller(kd))


def student_inside(b):
    with b.replicas.scope():
        student = b.net()
    return b.compiled(b.distiller(student=student))


MISTAKES = [
    Mistake(
        "an unknown strategy",
        lambda b: mr.distribute.strategy("all"),
        r"name must be one of \['auto', 'mirrored', .* Received: name='all'",
    ),
    Mistake(
        "a number of devices",
        lambda b: mr.distribute.strategy(2),
        r"name must be one of \['auto', 'mirrored', .* Received: name=2",
    ),
    Mistake(
        "a strategy's class",
        lambda b: mr.distribute.strategy(tf.distribute.MirroredStrategy),
        r"name must be one of \['auto', 'mirrored', .* Received: name=<class",
    ),
    Mistake(
        "several machines without TF_CONFIG",
        lambda b: b.multi_worker(""),
        r"needs the environment variable TF_CONFIG, such as .* Received: TF_CONFIG=''",
    ),
    Mistake(
        "a TF_CONFIG that is no JSON",
        lambda b: b.multi_worker("worker 0"),
        r"TF_CONFIG must be JSON with a cluster, .* Received: 'worker 0'",
    ),
    Mistake(
        "a TF_CONFIG without a cluster",
        lambda b: b.multi_worker({"task": {"type": "worker", "index": 0}}),
        r"needs the environment variable TF_CONFIG, such as .* Received: TF_CONFIG='\{\"task\"",
    ),
    Mistake(
        "a TF_CONFIG with one address and no list",
        lambda b: b.multi_worker(cluster({"type": "worker", "index": 0}, "127.0.0.1:1")),
        r"TF_CONFIG must be JSON with a cluster, of lists of addresses.* Received",
    ),
    Mistake(
        "a TF_CONFIG without a task",
        lambda b: b.multi_worker({"cluster": {"worker": ADDRESSES}}),
        r"The task of TF_CONFIG must say which of .* workers this is: .* Received: task=\{\}",
    ),
    Mistake(
        "an index beyond the workers",
        lambda b: b.multi_worker(cluster({"type": "worker", "index": 2})),
        r"from 0 to their number less one \(\{'worker': 2\}\). Received: task=.*2\}",
    ),
    Mistake(
        "a negative index of a worker",
        lambda b: b.multi_worker(cluster({"type": "worker", "index": -1})),
        r"The task of TF_CONFIG must say .* Received: task=.*-1\}",
    ),
    Mistake(
        "a misspelt kind of worker",
        lambda b: b.multi_worker(cluster({"type": "wroker", "index": 0})),
        r"its type, one of \['worker'\], .* Received: task=\{'type': 'wroker'",
    ),
    Mistake(
        "several machines when TensorFlow has begun",
        lambda b: b.multi_worker(cluster({"type": "worker", "index": 0})),
        r"must be made before anything else of TensorFlow: before models, tensors and datasets",
        RuntimeError,
    ),
    Mistake(
        "a student from outside of the scope",
        lambda b: outside(b, student=b.net()),
        r"Student 'student' must be made where it is trained.* Received: .* outside of every scope",
    ),
    Mistake(
        "a student from another scope",
        student_inside,
        r"must be made where it is trained: .* Received: .* in the scope of .*MirroredStrategy",
    ),
    Mistake(
        "knowledge from outside of the scope",
        knowledge_outside,
        r"The distiller must be made where it is trained.* Received: .* outside of every scope",
    ),
    Mistake(
        "compiled outside of the scope",
        compiled_outside,
        r"The optimizer must be made where it is trained.* Received: .* outside of every scope",
    ),
    Mistake(
        "trained inside of a scope, made outside",
        trained_inside,
        r"Student 'student' must be made where it is trained.* Received: .* outside of every scope",
    ),
]
