"""What the checks of data let pass, and what they say of a student's own labels."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.checks.compile_and_fit import clear_errors

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
Y = np.arange(6) % 3


def net(name=None, outputs=None):
    inputs = keras.Input((4,))
    heads = [keras.layers.Dense(3, name=head)(inputs) for head in outputs or ["logits"]]
    return keras.Model(inputs, dict(zip(outputs, heads, strict=True)) if outputs else heads[0])


def compiled(*knowledge, student=None, loss="labels", **arguments):
    distiller = mr.Distiller(
        student=student or net(), teacher=net(), knowledge=list(knowledge) or [mr.Response("kd")]
    )
    if isinstance(loss, str):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)
    distiller.compile("sgd", loss, run_eagerly=True)
    return distiller


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, place):
        rows = slice(3 * place, 3 * place + 3)
        return X[rows], Y[rows]


@pytest.mark.parametrize(
    "labels",
    [Y, Y[:, None], Y.astype("float32"), tf.constant(Y), (Y > 0), Y.astype("uint8")],
)
def test_labels_of_any_form_that_counts_as_classes(labels):
    history = compiled().fit(X, labels, batch_size=6, verbose=0).history
    assert history["ce"][0] > 0


def test_ignored_labels_are_no_mistake():
    labels = np.where(Y == 0, -1, Y)
    logs = compiled(ignore_class=-1).fit(X, labels, verbose=0).history
    assert logs["ce"][0] > 0
    with pytest.raises(ValueError, match=r"from 0 to 2 \(and \[-1\], which are ignored\)"):
        compiled(ignore_class=-1).fit(X, labels - 1, verbose=0)
    ignoring = compiled(mr.Response("dkd", ignore_class=-1), loss=None)
    assert ignoring.fit(X, labels, verbose=0).history["dkd"][0] > 0


def test_one_hot_labels_where_they_are_taken():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = compiled(mr.Response("dkd"), loss=loss)
    indices = compiled(mr.Response("dkd"))
    indices.student.set_weights(distiller.student.get_weights())
    indices.teacher.set_weights(distiller.teacher.get_weights())
    logs = distiller.train_on_batch(X, np.eye(3)[Y], return_dict=True)
    expected = indices.train_on_batch(X, Y, return_dict=True)
    assert logs == pytest.approx(expected, rel=1e-6)


def test_data_that_only_keras_can_look_into():
    assert compiled().fit(Batches(), epochs=1, shuffle=False, verbose=0).history["ce"][0] > 0

    batches = (batch for batch in itertools.repeat((X, Y)))
    logs = compiled().fit(batches, steps_per_epoch=2, shuffle=False, verbose=0).history
    assert logs["ce"][0] > 0


def test_labels_of_several_outputs_are_checked_by_name():
    student = net(outputs=["fine", "coarse"])
    distiller = mr.Distiller(
        student=student,
        teacher=net(),
        knowledge=[mr.Response("kd", student="fine")],
        supervised_weight=1.0,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", {"fine": loss, "coarse": loss}, run_eagerly=True)
    distiller.fit(X, {"fine": Y, "coarse": Y}, verbose=0)
    with pytest.raises(ValueError, match=r"The loss of 'coarse' needs .*y with \[3\]"):
        distiller.fit(X, {"fine": Y, "coarse": Y + 1}, verbose=0)


def test_other_errors_of_a_step_stay_what_they_are():
    with pytest.raises(tf.errors.InvalidArgumentError, match="mine"), clear_errors():
        tf.debugging.assert_equal(1, 2, message="mine")


@pytest.mark.parametrize("index", [0, "1"])
def test_an_index_of_a_worker_is_a_number_or_its_digits(index):
    from modreduce_keras.distribute import strategies

    cluster = '{"cluster": {"worker": ["a:1", "b:1"]}}'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CONFIG", cluster)
        strategies._require_task({"type": "worker", "index": index})


@pytest.mark.parametrize(
    ("students", "received"),
    [
        (None, "Received: None"),
        ("ab", "Received: 'ab'"),
        (["a.keras"], "a list with 'a.keras'"),
        ({1: None}, r"the names \[1\]"),
    ],
)
def test_students_are_a_dict_or_a_list(students, received):
    with pytest.raises(TypeError, match=f"a dict from name to model, or a list .*{received}"):
        checks.require_students(students)


def test_what_is_given_by_student_is_a_dict():
    checks.require_by_student("knowledge", None, "{}")
    checks.require_by_student("knowledge", {"a": 1}, "{}")
    with pytest.raises(TypeError, match=r"dict from student, such as .* Received: \[1\]"):
        checks.require_by_student("knowledge", [1], "{}")


@pytest.mark.parametrize("identifier", ["kd", "dist", "logit_mse", "logit_l1", "multi_level"])
def test_losses_between_peers(identifier):
    checks.require_online_loss(mr.losses.get(identifier))


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        ("hint", "kind 'feature'"),
        ("rkd_distance", "kind 'relation'"),
        ("dkd", "needs labels"),
        ("confidence_penalty", "needs no teacher"),
        ("ctkd", "kind 'response'"),
    ],
)
def test_losses_that_are_none_between_peers(identifier, reason):
    message = f"online_loss must be .* Received: online_loss='{identifier}' .*{reason}"
    with pytest.raises(ValueError, match=message):
        checks.require_online_loss(mr.losses.get(identifier))
