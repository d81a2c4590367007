"""A skipped step leaves memories as they were, and keeps of them only the rows that it touches."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distribute import assign_rows, changed_by_rows, keeping_overwritten, take_back
from tests.support.models.poison import values

SAMPLES, UNITS = 40, 4


@contextlib.contextmanager
def quiet():
    """Says nothing of the step that is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def memory(**arguments):
    given = {"samples": SAMPLES, "units": UNITS, "negatives": 6, **arguments}
    adapter = mr.adapters.ContrastiveMemory(**given)
    return mr.Relation("crd", at="embedding", adapter=adapter)


def queue():
    adapter = mr.adapters.ContrastiveQueue(negatives=8, units=UNITS)
    return mr.Relation("crd", at="embedding", adapter=adapter)


def shared():
    """Two knowledges that write into one bank in a step."""
    adapter = mr.adapters.ContrastiveMemory(samples=SAMPLES, units=UNITS, negatives=6)
    return [mr.Relation("crd", at="embedding", adapter=adapter, name=name) for name in ("a", "b")]


@pytest.fixture
def build(net, teacher, cross_entropy):
    def offline(knowledge):
        several = knowledge if isinstance(knowledge, list) else [knowledge]
        return mr.Distiller(student=net(), teacher=teacher, knowledge=several)

    def codistilled():
        return mr.PeerDistiller({"a": net(), "b": net()}, aggregator="codistillation")

    kinds = {
        "per_sample": lambda: offline(memory()),
        "dense": lambda: offline(memory(negatives=30)),
        "shared": lambda: offline(memory(sampling="shared")),
        "queue": lambda: offline(queue()),
        "two in one": lambda: offline(shared()),
        "temporal": lambda: mr.TemporalEnsembling(net(), samples=SAMPLES),
        "codistillation": codistilled,
    }

    def make(kind, **arguments):
        keras.utils.set_random_seed(4)
        model = kinds[kind]()
        arguments.setdefault("run_eagerly", True)
        model.compile(keras.optimizers.Adam(0.01), cross_entropy, **arguments)
        return model

    return make


KINDS = [
    *("per_sample", "dense", "shared", "queue", "two in one"),
    *("temporal", "codistillation"),
]


def state(model):
    """Returns what a skipped step must not change: all but what counts steps and means."""
    counted = {id(v) for metric in model.metrics for v in metric.variables}
    counted |= {id(model.step), *(id(v) for v in model._loss_scales.variables)}
    past = getattr(model, "past", None)
    counted |= {id(past.updates)} if past is not None else set()
    several = [*model.variables, *model.optimizer.variables]
    return values([v for v in several if id(v) not in counted])


def batch(images, labels, index, bad=False):
    x = images.copy()
    if bad:
        x[2, 2, 2, 0] = np.nan
    return {"inputs": x, "sample_index": np.asarray(index)}, labels


INDEX = [3, 9, 3, 0, 39, 7, 8, 21, 9, 9, 11, 12]  # some twice


@pytest.mark.parametrize("eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_leaves_everything_as_it_was(build, kind, eagerly, images, labels):
    model = build(kind, on_nonfinite="skip", run_eagerly=eagerly)
    model.train_on_batch(*batch(images, labels, INDEX))
    before = state(model)
    with quiet():
        model.train_on_batch(*batch(images, labels, INDEX, bad=True))
    after = state(model)
    assert [a.tobytes() for a in after] == [b.tobytes() for b in before]
    assert all(number == 1 for name, number in model.skipped_steps.items() if name != "aggregator")


@pytest.mark.parametrize("kind", ["per_sample", "shared", "two in one", "queue", "temporal"])
def test_a_step_that_is_taken_is_that_without_the_guard(build, kind, images, labels):
    models = [build(kind, on_nonfinite=mode) for mode in (None, "skip")]
    for model in models:
        for shift in range(3):
            model.train_on_batch(*batch(images, labels, (np.array(INDEX) + shift) % SAMPLES))
    plain, guarded = (values(model.variables) for model in models)
    guarded = guarded[: len(plain)]  # then the loss scales
    assert [a.tobytes() for a in guarded] == [b.tobytes() for b in plain]


def test_one_students_memory_rests_and_the_others_moves(
    net, teacher, images, labels, cross_entropy
):
    def after(factor):
        keras.utils.set_random_seed(4)
        model = mr.PeerDistiller(
            {"a": net(), "b": net()},
            teacher=teacher,
            knowledge={"a": [memory(seed=1)], "b": [memory(seed=2)]},
        )
        sgd = {name: keras.optimizers.SGD(0.1) for name in "ab"}
        model.compile(sgd, cross_entropy, on_nonfinite="skip", run_eagerly=True)
        adapters = [model.knowledge[name][0].adapter for name in "ab"]
        embedding = adapters[0].embedding.weights[0]
        embedding.assign(embedding * factor)
        banks = [adapter.student_bank for adapter in adapters]
        before = values(banks)
        model.train_on_batch(*batch(images, labels, INDEX))
        return before, values(banks), model.skipped_steps

    before, good, _ = after(1.0)
    with quiet():
        _, mixed, skipped = after(np.nan)
    assert (skipped["a"], skipped["b"]) == (1, 0)
    np.testing.assert_array_equal(mixed[0], before[0])
    np.testing.assert_array_equal(mixed[1], good[1])
    assert not np.array_equal(good[0], before[0])


@pytest.mark.slow
def test_two_replicas(net, teacher, cross_entropy, images, labels, two_replicas):
    with two_replicas.scope():
        model = mr.Distiller(student=net(), teacher=teacher, knowledge=[memory(sampling="shared")])
        model.compile(keras.optimizers.Adam(0.01), cross_entropy, on_nonfinite="skip")

    def fit(bad):
        x, y = batch(images, labels, INDEX, bad)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(12)
        model.fit(data, shuffle=False, verbose=0)

    fit(False)
    before = state(model)
    with quiet():
        fit(True)
    assert [a.tobytes() for a in state(model)] == [b.tobytes() for b in before]
    assert model.skipped_steps == {"student": 1}
    fit(False)
    bank = model.knowledge["student"][0].adapter.student_bank
    assert not any(np.array_equal(values([bank])[0], one) for one in before)


def sizes_in_graph(model, x, y):
    """Returns the shapes of all tensors that a training step makes."""
    step = tf.function(model.train_step).get_concrete_function((x, y))
    graphs = [step.graph, *(f.graph for f in step.graph._functions.values() if hasattr(f, "graph"))]
    tensors = [output for g in graphs for op in g.get_operations() for output in op.outputs]
    return {tuple(one.shape) for one in tensors if one.shape.rank is not None}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shared", "temporal"])
def test_a_step_makes_nothing_of_the_memorys_size(build, kind, images, labels):
    x, y = batch(images, labels, INDEX)
    x = {name: tf.constant(value) for name, value in x.items()}
    for mode in (None, "skip"):
        model = build(kind, on_nonfinite=mode, run_eagerly=False)
        sizes = sizes_in_graph(model, x, tf.constant(y))
        assert not [size for size in sizes if size[:1] == (SAMPLES,)]


def test_rows_that_were_written_twice_are_taken_back():
    variable = changed_by_rows(
        keras.Variable(np.arange(8.0).reshape(4, 2), aggregation="only_first_replica")
    )
    with keeping_overwritten() as rows:
        assign_rows(variable, np.array([1, 3, 1]), np.array([[9.0, 9.0]] * 3, "float32"))
        assign_rows(variable, np.array([1, 2]), np.zeros((2, 2), "float32"))
    changed = variable.numpy()
    take_back(rows, lambda one: False)
    np.testing.assert_array_equal(variable.numpy(), changed)
    take_back(rows, lambda one: one is variable)
    np.testing.assert_array_equal(variable.numpy(), np.arange(8.0).reshape(4, 2))
