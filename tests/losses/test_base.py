"""Tests of what every loss inherits: its name, its reduction, labels, a constant teacher."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


class LabelledDifference(mr.losses.Loss):
    """A loss of the user's own that looks at the label's logit only."""

    identifier = "labelled_difference"
    needs_labels = True

    def per_sample(self, teacher, student, labels=None):
        return keras.ops.take_along_axis(teacher - student, labels[:, None], axis=1)[:, 0]


TEACHER = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
STUDENT = np.array([[0.5, 0.0], [0.0, 1.0]], "float32")


def test_name_is_the_identifier_unless_given():
    assert mr.losses.Hint().name == "hint"
    assert mr.losses.Hint(name="first_stage").name == "first_stage"


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum_over_batch_size", 4.5), ("mean", 4.5), ("sum", 9.0), (None, [2.125, 6.875])],
)
def test_a_call_on_its_own_reduces_as_asked(reduction, expected):
    loss = mr.losses.LogitMSE(reduction=reduction)
    student = TEACHER + np.array([[0.5, 2.0], [-1.5, np.sqrt(11.5)]], "float32")
    np.testing.assert_allclose(loss(TEACHER, student), expected, rtol=1e-6)


def test_labels_reach_a_loss_that_needs_them():
    values = LabelledDifference().call(
        {"teacher": TEACHER, "labels": np.array([0, 1])}, tf.constant(STUDENT)
    )
    np.testing.assert_array_equal(values, [0.5, 3.0])


@pytest.mark.parametrize(
    "y_true", [TEACHER, {"teacher": TEACHER}, {"teacher": TEACHER, "labels": [0, 1], "more": 0}]
)
def test_a_loss_that_needs_labels_says_so(y_true):
    message = "LabelledDifference needs labels: y_true must be a dict with the keys 'teacher' and"
    with pytest.raises(ValueError, match=message):
        LabelledDifference().call(y_true, STUDENT)


def test_no_gradient_reaches_the_teacher_of_a_loss_that_forgot_to_stop_it():
    teacher, student = tf.constant(TEACHER), tf.constant(STUDENT)
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        values = LabelledDifference().call(
            {"teacher": teacher, "labels": np.array([0, 1])}, student
        )
    to_student, to_teacher = tape.gradient(values, [student, teacher])
    np.testing.assert_array_equal(to_student, [[-1.0, 0.0], [0.0, -1.0]])
    assert to_teacher is None


def test_a_loss_trains_on_stored_teacher_logits_without_a_distiller(random):
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    student.compile("sgd", mr.losses.KD(temperature=2.0))
    inputs, logits = random.normal(size=(8, 4)), random.normal(size=(8, 3)).astype("float32")
    expected = float(mr.losses.KD(temperature=2.0)(logits, student(inputs)))
    history = student.fit(inputs, logits, batch_size=8, epochs=2, verbose=0).history["loss"]
    assert history[0] == pytest.approx(expected, rel=1e-5)
    assert history[1] < history[0]


def test_per_sample_is_to_be_written():
    with pytest.raises(NotImplementedError):
        mr.losses.Loss(name="abstract").call(TEACHER, STUDENT)


class TwiceByCall(mr.losses.KD):
    def call(self, y_true, y_pred):
        return 2.0 * super().call(y_true, y_pred)


class TwiceBySample(mr.losses.KD):
    def per_sample(self, teacher, student, labels=None, mask=None):
        return 2.0 * super().per_sample(teacher, student, labels, mask)


class TwiceByPosition(mr.losses.KD):
    def per_position(self, teacher, student, labels=None, mask=None):
        return 2.0 * super().per_position(teacher, student, labels, mask)


@pytest.mark.parametrize("kind", [TwiceByCall, TwiceBySample, TwiceByPosition])
def test_a_distiller_runs_what_a_subclass_writes_anew(kind):
    student, teacher = (
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]) for _ in range(2)
    )
    knowledge = [mr.Response("kd", name="once"), mr.Response(kind(), name="twice")]
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=knowledge)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.train_on_batch(STUDENT, return_dict=True)
    assert logs["twice"] == pytest.approx(2.0 * float(logs["once"]), rel=1e-6)
