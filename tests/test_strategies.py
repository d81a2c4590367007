"""Strategies by name, and the message where something was made outside of their scope."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distribute import lost_workers, strategies, telling_of_lost_workers
from tests.support import programs

LABELS = np.arange(6) % 3


def net(name=None):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name=name)


def compiled(distiller, optimizer="sgd"):
    distiller.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller


def test_one_device_is_what_is_here_without_several():
    for name in ("auto", "one_device"):
        strategy = mr.distribute.strategy(name)
        assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
        assert strategy.num_replicas_in_sync == 1


def test_mirrored_takes_this_machine(monkeypatch):
    strategy = mr.distribute.strategy("mirrored")
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    asked = []
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", asked.append)
    gpus = [type("Device", (), {"name": f"/device:GPU:{index}"}) for index in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    mr.distribute.strategy("auto")
    mr.distribute.strategy("mirrored")
    assert asked == [["/device:GPU:0", "/device:GPU:1"]] * 2


def test_several_workers_are_taken_from_the_environment(monkeypatch):
    class MultiWorker:
        pass

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", MultiWorker)
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert isinstance(mr.distribute.strategy("auto"), MultiWorker)
    assert isinstance(mr.distribute.strategy("multi_worker"), MultiWorker)
    cluster["worker"].pop()
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert isinstance(mr.distribute.strategy("auto"), tf.distribute.OneDeviceStrategy)


def test_several_workers_come_first(monkeypatch):
    tf.config.list_logical_devices("CPU")
    cluster = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(RuntimeError, match="before anything else of TensorFlow"):
        mr.distribute.strategy()


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_strategy_fails_with_is_told_apart_by_whether_tensorflow_has_begun(
    monkeypatch, begun
):
    def fails():
        raise RuntimeError("no such network at program startup" if not begun else "anything")

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", fails)
    monkeypatch.setattr(strategies, "_has_begun", lambda threading: begun)
    config = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    message = "before anything else of TensorFlow" if begun else "no such network"
    with pytest.raises(RuntimeError, match=message):
        mr.distribute.strategy("multi_worker")


BEGINS = """
import tensorflow as tf
from modreduce_keras.distribute import strategies
threading = tf.config.threading
threading.set_inter_op_parallelism_threads(2)
assert not strategies._has_begun(threading)
assert threading.get_inter_op_parallelism_threads() == 2
tf.constant(1)
assert strategies._has_begun(threading)
assert threading.get_inter_op_parallelism_threads() == 2
"""


@pytest.mark.slow
def test_whether_tensorflow_has_begun(tmp_path):
    program = tmp_path / "begins.py"
    program.write_text(BEGINS)
    done = programs.run(program)
    assert done.returncode == 0, done.stderr


def test_a_strategy_is_returned(two_replicas):
    assert mr.distribute.strategy(two_replicas) is two_replicas


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        (
            "all",
            "",
            r"name must be one of \['auto', 'mirrored', .*'one_device'\]. Received: .*'all'",
        ),
        (None, "", "name must be one of .* Received: name=None"),
        ("multi_worker", "", r"TF_CONFIG, such as \{.*Received: TF_CONFIG=''"),
        ("auto", "worker 0", "TF_CONFIG must be JSON with a cluster.* Received: 'worker 0'"),
        ("auto", "[1]", r"TF_CONFIG must be JSON with a cluster.* Received: '\[1\]'"),
    ],
)
def test_what_is_no_strategy(name, environment, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", environment)
    with pytest.raises(ValueError, match=message):
        mr.distribute.strategy(name)


def test_a_student_from_outside_of_the_scope_is_named(two_replicas):
    student, teacher = net("small"), net("large")
    with two_replicas.scope():
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response("kd")])
        with pytest.raises(ValueError, match=r"^Student 'student' must be made .*every scope, to"):
            compiled(distiller)


def test_a_teacher_may_come_from_outside_of_the_scope(two_replicas, random):
    teacher = net("large")
    with two_replicas.scope():
        distiller = compiled(
            mr.Distiller(student=net("small"), teacher=teacher, knowledge=[mr.Response("kd")])
        )
    x = random.normal(size=(6, 4)).astype("float32")
    logs = distiller.fit(x, LABELS, verbose=0).history
    assert set(logs) == {"loss", "ce", "kd"}


def test_replicas_evaluate_outside_of_graphs(two_replicas, random):
    """Sizes of tensors are Python integers there, which TensorFlow does not sum over replicas."""
    with two_replicas.scope():
        distiller = mr.Distiller(student=net("small"), teacher=net("large"), knowledge="kd")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    x, y = random.normal(size=(4, 4)).astype("float32"), np.array([0, 1, 0, 1])
    found = distiller.evaluate(x, y, verbose=0, return_dict=True)
    logits = keras.ops.convert_to_numpy(distiller.student(x))
    expected = float(loss(y, logits))
    np.testing.assert_allclose(found["ce"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], np.mean(logits.argmax(-1) == y))


def test_a_distiller_from_outside_of_the_scope_is_named(two_replicas, random):
    distiller = compiled(
        mr.Distiller(student=net("small"), teacher=net("large"), knowledge=[mr.Response("kd")])
    )
    x = random.normal(size=(6, 4)).astype("float32")
    with two_replicas.scope(), pytest.raises(ValueError, match=r"Student .* must be made where"):
        distiller.fit(x, LABELS, verbose=0)


def test_one_replica_of_a_strategy_that_mirrors_needs_its_scope_too(logical_cpus, random):
    strategy = tf.distribute.MirroredStrategy(logical_cpus[:1])
    x = random.normal(size=(6, 4)).astype("float32")
    student, teacher = net("small"), net("large")
    with strategy.scope(), pytest.raises(ValueError, match=r"must be made .*outside of every"):
        compiled(mr.Distiller(student=student, teacher=teacher, knowledge="kd"))
    with strategy.scope():
        student = net("small")
        distiller = compiled(mr.Distiller(student=student, teacher=teacher, knowledge="kd"))
    logs = distiller.fit(x, LABELS, verbose=0).history
    assert np.isfinite(logs["loss"]).all()


def test_a_student_from_another_scope_is_named(two_replicas):
    with two_replicas.scope():
        student = net("small")
    distiller = mr.Distiller(student=student, teacher=net("large"), knowledge=[mr.Response("kd")])
    with pytest.raises(ValueError, match=r"made in the scope of .*MirroredStrategy"):
        compiled(distiller)


def test_an_optimizer_from_outside_of_the_scope_is_named(two_replicas, random):
    with two_replicas.scope():
        distiller = mr.Distiller(
            student=net("small"), teacher=net("large"), knowledge=[mr.Response("kd")]
        )
    compiled(distiller, keras.optimizers.SGD(0.1, momentum=0.9))
    x = random.normal(size=(6, 4)).astype("float32")
    with pytest.raises(ValueError, match=r"The optimizer must be made .*outside of every scope"):
        distiller.fit(x, LABELS, verbose=0)


@pytest.mark.parametrize("stage", [False, True])
def test_statistics_of_batch_normalization_are_the_mean_of_the_replicas(
    stage, two_replicas, random
):
    x = random.normal(size=(8, 4)).astype("float32")
    with two_replicas.scope():
        normalization = keras.layers.BatchNormalization(momentum=0.9)
        hidden = keras.layers.Dense(3, name="hidden")
        student = keras.Sequential([keras.Input((4,)), normalization, hidden])
        teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden")])
        hint = mr.Feature("hint", at="hidden", adapter=None, staged=stage)
        distiller = compiled(mr.Distiller(student=student, teacher=teacher, knowledge=[hint]))
    train = distiller.pretrain if stage else distiller.fit
    train(x, np.arange(8) % 3, batch_size=8, shuffle=False, verbose=0)
    for variable, expected in [
        (normalization.moving_mean, 0.1 * x.mean(axis=0)),
        (normalization.moving_variance, 0.9 + 0.1 * (x[:4].var(axis=0) + x[4:].var(axis=0)) / 2),
    ]:
        for copy in two_replicas.experimental_local_results(variable.value):
            np.testing.assert_allclose(copy, expected, rtol=1e-5, atol=1e-7)


LOST = [tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError]


@pytest.mark.parametrize("kind", LOST)
def test_a_lost_worker_is_told_in_one_line(kind, monkeypatch):
    strategy = tf.distribute.get_strategy()
    with pytest.raises(kind), telling_of_lost_workers(strategy):
        raise kind(None, None, "Collective ops is aborted by: Socket closed")
    monkeypatch.setattr(lost_workers, "is_multi_worker", lambda strategy: True)
    message = "^Another worker of this training has stopped .*mr.callbacks.Resume.*have[.]$"
    with pytest.raises(RuntimeError, match=message), telling_of_lost_workers(strategy):
        raise kind(None, None, "Collective ops is aborted by: Socket closed")
    with pytest.raises(tf.errors.InvalidArgumentError), telling_of_lost_workers(strategy):
        raise tf.errors.InvalidArgumentError(None, None, "something else")
