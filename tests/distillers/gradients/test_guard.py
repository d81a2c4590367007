"""The guard: terms and gradients that are not finite stop training, or are skipped and counted."""

import contextlib
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.models.poison import marked, poisoned_net, values

BAD = 3
"""The batch with an image that is not a number."""


@pytest.fixture
def batches(images, labels):
    """Six batches of 12 images, the fourth of which has a NaN."""

    def make(bad=BAD):
        random = np.random.default_rng(1)
        x = np.concatenate([random.permutation(images) for _ in range(6)])
        if bad is not None:
            x[12 * bad + 9, 2, 2, 0] = np.nan
        return tf.data.Dataset.from_tensor_slices((x, np.tile(labels, 6))).batch(12)

    return make


@contextlib.contextmanager
def warned(match):
    """Like `pytest.warns`, which raises what TensorFlow deprecates as if it were ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    own = [one for one in caught if one.category is UserWarning]
    assert {one.filename for one in own} == {__file__}
    messages = [str(one.message) for one in own]
    assert any(re.search(match, message) for message in messages), messages


def fit(distiller, batches, **arguments):
    return distiller.fit(batches, verbose=0, shuffle=False, **arguments)


@pytest.fixture
def new_distiller(net, teacher, cross_entropy):
    def make(**arguments):
        keras.utils.set_random_seed(4)
        distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response("kd")])
        arguments.setdefault("run_eagerly", True)
        distiller.compile(keras.optimizers.Adam(0.01), cross_entropy, **arguments)
        return distiller

    return make


def state(distiller):
    return values([*distiller.student.variables, *distiller.optimizer.variables])


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", [{"steps_per_execution": 4, "run_eagerly": False}, {}])
def test_stopping_leaves_the_weights_of_before_the_step(new_distiller, batches, options):
    distiller = new_distiller(on_nonfinite="stop", **options)
    with pytest.raises(mr.NonFiniteError) as caught:
        fit(distiller, batches())
    assert caught.value.step == BAD
    assert "ce" in caught.value.names
    assert "kd" in caught.value.names
    assert "stopped at step 3, because term 'ce', term 'kd'" in str(caught.value)
    expected = new_distiller()
    fit(expected, batches().take(BAD))
    for one, other in zip(state(distiller), state(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # It can go on, with other data.
    fit(distiller, batches(bad=None))
    assert all(np.isfinite(value).all() for value in state(distiller))


@pytest.mark.filterwarnings("ignore:ModelCheckpoint writes the whole distiller")
def test_nothing_is_saved_after_a_stop(new_distiller, batches, tmp_path):
    distiller = new_distiller(on_nonfinite="stop")
    every_batch = keras.callbacks.ModelCheckpoint(
        tmp_path / "{batch}.weights.h5", save_weights_only=True, save_freq=1
    )
    resume = mr.callbacks.Resume(tmp_path / "resume", every=1)
    with pytest.raises(mr.NonFiniteError):
        fit(distiller, batches(), callbacks=[every_batch, resume])
    assert len(list(tmp_path.glob("*.h5"))) == BAD
    newest = new_distiller()
    fit(newest, batches().take(BAD))
    again = new_distiller(on_nonfinite="stop")
    with pytest.raises(mr.NonFiniteError):  # it goes on from what was saved last, and stops again
        fit(again, batches(), callbacks=[mr.callbacks.Resume(tmp_path / "resume")])
    assert_same(state(again), state(newest))


def test_skipping_is_as_if_the_batch_had_not_been_there(new_distiller, batches):
    distiller = new_distiller(on_nonfinite="skip")
    with warned("Step 3 was skipped, because term 'ce', term 'kd' are not finite"):
        history = fit(distiller, batches()).history
    expected = new_distiller()
    without = batches().enumerate().filter(lambda i, _: i != BAD).map(lambda _, batch: batch)
    fit(expected, without.apply(tf.data.experimental.assert_cardinality(5)))
    assert_same(values(distiller.student.variables), values(expected.student.variables))
    assert distiller.skipped_steps == {"student": 1}
    assert distiller.nonfinite_steps["kd"] == 1
    assert all(np.isfinite(value).all() for value in history.values())


@pytest.mark.filterwarnings("ignore:Step 0 was skipped")
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_losses_of_an_epoch_that_was_skipped_whole_are_nan(
    net, teacher, images, labels, cross_entropy, several, run_eagerly
):
    if several:
        distiller = mr.PeerDistiller({"a": net(), "b": net()})
    else:
        distiller = mr.Distiller(student=net(), teacher=teacher, knowledge="kd")
    distiller.compile("sgd", cross_entropy, on_nonfinite="skip", run_eagerly=run_eagerly)
    bad, monitor = np.full_like(images, np.nan), keras.callbacks.EarlyStopping("loss", patience=0)
    logs = distiller.fit(bad, labels, epochs=3, verbose=0, callbacks=[monitor]).history
    assert all(np.isnan(value).all() for value in logs.values()), logs
    assert len(logs["loss"]) < 3  # nothing of it counts as an improvement
    logs = distiller.fit(images, labels, verbose=0).history
    assert all(np.isfinite(value).all() for value in logs.values()), logs


def test_evaluation_leaves_out_nothing(new_distiller, batches):
    distiller = new_distiller(on_nonfinite="skip")
    logs = distiller.evaluate(batches(), verbose=0, return_dict=True)
    assert {name for name, value in logs.items() if np.isnan(value)} == {"loss", "ce"}


def test_one_student_is_skipped_and_the_others_go_on(net, teacher, images, labels, cross_entropy):
    def after_a_step(factor):
        keras.utils.set_random_seed(4)
        distiller = mr.PeerDistiller(
            {"a": net(), "b": net()},
            teacher=teacher,
            knowledge={"a": [mr.Response("kd")]},
            teacher_input=lambda x: x * factor,
        )
        optimizer = {name: keras.optimizers.Adam(0.01) for name in "ab"}
        distiller.compile(optimizer, cross_entropy, on_nonfinite="skip", run_eagerly=True)
        before = values(distiller.students["a"].variables)
        distiller.train_on_batch(images, labels)
        return distiller, before, [values(one.variables) for one in distiller.students.values()]

    _, before, (moved, expected) = after_a_step(1.0)
    with warned("Step 0 was skipped, because term 'kd' of 'a' is not"):
        distiller, _, (rested, other) = after_a_step(np.nan)
    assert distiller.nonfinite_steps == {"a/kd": 1}
    assert distiller.skipped_steps == {"a": 1, "b": 0, "aggregator": 0}
    assert_same(rested, before)
    assert_same(other, expected)
    assert not np.array_equal(moved[0], before[0])


def test_a_gradient_alone_is_named(images, labels, cross_entropy):
    student, teacher = poisoned_net("student"), poisoned_net("teacher")
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[mr.Response()])
    distiller.compile("sgd", cross_entropy, on_nonfinite="stop")
    distiller.train_on_batch(marked(images), labels)
    before = values(student.variables)
    with pytest.raises(mr.NonFiniteError, match="the gradient of 'student' is not finite") as error:
        distiller.train_on_batch(marked(images, 2), labels)
    assert (error.value.step, error.value.names) == (1, ["gradient"])
    assert_same(values(student.variables), before)


def test_what_is_found_on_one_replica_stops_all(net, teacher, cross_entropy, batches, two_replicas):
    with two_replicas.scope():
        distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response("kd")])
        distiller.compile("adam", cross_entropy, on_nonfinite="stop")
        with pytest.raises(mr.NonFiniteError, match="stopped at step 3"):
            fit(distiller, batches())
    assert all(np.isfinite(value).all() for value in state(distiller))


def test_a_memory_is_as_before_a_skipped_step(net, teacher, images, labels, cross_entropy):
    memory = mr.adapters.ContrastiveMemory(samples=12, negatives=4)
    distiller = mr.Distiller(
        student=net(),
        teacher=teacher,
        knowledge=[mr.Relation("crd", at="embedding", adapter=memory)],
    )
    distiller.compile("sgd", cross_entropy, on_nonfinite="skip", run_eagerly=True)
    before = values(memory.variables)
    x = {"inputs": images.copy(), "sample_index": np.arange(12)}
    x["inputs"][2] = np.nan
    with warned("crd"):
        distiller.train_on_batch(x, labels)
    assert_same(values(memory.variables), before)
    distiller.train_on_batch({**x, "inputs": images}, labels)
    together = [np.concatenate(several, None) for several in (values(memory.variables), before)]
    assert not np.array_equal(*together)


def test_wrong_choice(new_distiller):
    with pytest.raises(ValueError, match=r"on_nonfinite must be one of \['stop', 'skip'\]"):
        new_distiller(on_nonfinite="raise")
