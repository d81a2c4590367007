"""Properties of losses, over drawn shapes and numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.inputs.cases import assert_close, changed, normal, with_labels
from tests.support.inputs.drawn import batches, classes, few, seeds, some
from tests.support.inputs.method_examples import LOGITS, NOT_ZERO_AT_TEACHER, loss_shapes

DTYPES = ["float16", "bfloat16", "float32", "float64"]
RESPONSES = [n for n, cls in components("loss").items() if loss_shapes(cls) == LOGITS]
OF_PLAIN_NUMBERS = ("logit_mse", "logit_l1")
OF_CLASSES = [n for n in RESPONSES if n not in (*OF_PLAIN_NUMBERS, "binary_kd")]

every_response = pytest.mark.parametrize("identifier", RESPONSES)


@st.composite
def sides_of_logits(draw, largest=20.0):
    """Draws a teacher's and a student's logits, and labels, for any number of positions."""
    random = np.random.default_rng(draw(seeds))
    positions = draw(st.sampled_from([(), (), (1,), (3,), (2, 2)]))
    shape = (draw(batches), *positions, draw(classes))
    size = draw(st.floats(0.1, largest))
    teacher, student = (
        (size * random.normal(size=shape)).astype("float32") for _ in ("teacher", "student")
    )
    return teacher, student, random.integers(shape[-1], size=shape[:-1])


def fitting(identifier, sides):
    """Returns the sides as a loss takes them: positions count as samples where it has none."""
    if identifier != "multi_level":
        return sides
    teacher, student, labels = sides
    flat = (-1, student.shape[-1])
    return teacher.reshape(flat), student.reshape(flat), labels.reshape(-1)


def called(loss, teacher, student, labels):
    """Returns the values per sample of a loss on logits, given what it takes."""
    y_true = labels if loss.needs_labels and not loss.needs_teacher else teacher
    if loss.needs_labels and loss.needs_teacher:
        y_true = {"teacher": teacher, "labels": labels}
    return np.asarray(loss.call(y_true, student))


@every_response
@few
@given(sides=sides_of_logits(), dtype=st.sampled_from(DTYPES))
def test_a_response_loss_gives_a_finite_float32_value_for_each_sample(identifier, sides, dtype):
    teacher, student, labels = fitting(identifier, sides)
    low = [tf.cast(side, dtype) for side in (teacher, student)]
    values = called(mr.losses.get(identifier), *low, labels)
    assert values.shape == (len(labels),)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


@every_response
@few
@given(sides=sides_of_logits(), seed=seeds)
def test_a_response_loss_knows_no_order_of_samples_and_classes(identifier, sides, seed):
    teacher, student, labels = fitting(identifier, sides)
    loss, random = mr.losses.get(identifier), np.random.default_rng(seed)
    values = called(loss, teacher, student, labels)
    samples = random.permutation(len(labels))
    permuted = called(loss, teacher[samples], student[samples], labels[samples])
    assert_close(permuted, values[samples], rtol=1e-4, atol=1e-5)
    order = random.permutation(student.shape[-1])
    renamed = called(loss, teacher[..., order], student[..., order], np.argsort(order)[labels])
    assert_close(renamed, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "identifier", [n for n in RESPONSES if n not in (*OF_PLAIN_NUMBERS, "binary_kd")]
)
@few
@given(sides=sides_of_logits(largest=5.0), seed=seeds)
def test_a_loss_on_classes_does_not_see_a_constant_in_the_logits(identifier, sides, seed):
    teacher, student, labels = fitting(identifier, sides)
    random = np.random.default_rng(seed)
    constants = [random.integers(-8, 8, size=(*labels.shape, 1)) for _ in range(2)]
    loss = mr.losses.get(identifier)
    moved = called(loss, teacher + constants[0], student + constants[1], labels)
    assert_close(moved, called(loss, teacher, student, labels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("identifier", [n for n in RESPONSES if n not in NOT_ZERO_AT_TEACHER])
@few
@given(sides=sides_of_logits())
def test_a_response_loss_is_zero_at_the_teacher(identifier, sides):
    _, student, labels = fitting(identifier, sides)
    values = called(mr.losses.get(identifier), student, student, labels)
    assert_close(values, np.zeros(len(labels)), atol=1e-4)


@every_response
@few
@given(sides=sides_of_logits(), seed=seeds)
def test_what_a_mask_leaves_out_does_not_count(identifier, sides, seed):
    teacher, student, labels = fitting(identifier, sides)
    random = np.random.default_rng(seed)
    mask = random.integers(2, size=labels.shape).astype("bool")
    loss = mr.losses.get(identifier)

    def masked(teacher, student, labels):
        given = {"mask": mask}
        given |= {"teacher": teacher} if loss.needs_teacher else {}
        given |= {"labels": labels} if loss.needs_labels else {}
        return loss.call(given, student)

    hidden = np.where(mask[..., None], student, np.inf), np.where(mask, labels, 255)
    elsewhere = masked(np.where(mask[..., None], teacher, np.nan), *hidden)
    assert_close(elsewhere, masked(teacher, student, labels))


@some
@given(sides=sides_of_logits(), temperature=st.floats(0.5, 20.0))
def test_kd_equals_its_equation(sides, temperature):
    teacher, student, _ = sides

    def log_softmax(logits):
        logits = logits.astype("float64") / temperature
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    target, own = log_softmax(teacher), log_softmax(student)
    expected = temperature**2 * (np.exp(target) * (target - own)).sum(axis=-1)
    expected = expected.reshape(len(teacher), -1).mean(axis=1)
    values = mr.losses.KD(temperature=temperature).call(teacher, student)
    assert_close(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("identifier", [n for n in components("loss") if n not in RESPONSES])
@settings(few, max_examples=4)
@given(batch=st.integers(1, 7), dtype=st.sampled_from(DTYPES), seed=seeds)
def test_a_loss_takes_any_batch_of_any_dtype(identifier, batch, dtype, seed):
    loss, random = mr.losses.get(identifier), np.random.default_rng(seed)
    teacher, student = (normal(shape, batch, random) for shape in loss_shapes(loss))
    teacher, student = (changed(lambda t: tf.cast(t, dtype), side) for side in (teacher, student))
    values = np.asarray(loss.call(with_labels(loss, teacher), student))
    assert values.shape == (batch,)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


@few
@given(
    labels=st.lists(st.integers(-3, 12), min_size=1, max_size=6),
    number=classes,
    identifier=st.sampled_from(["dkd", "nkd", "teacher_free"]),
)
def test_a_label_is_used_or_refused_and_in_a_graph_a_nan(labels, number, identifier):
    loss, labels = mr.losses.get(identifier), np.array(labels)
    logits = np.random.default_rng(0).normal(size=(2, len(labels), number)).astype("float32")
    wrong = (labels < 0) | (labels >= number)
    if wrong.any():
        with pytest.raises(ValueError, match=f"class indices from 0 to {number - 1}. Received"):
            called(loss, *logits, labels)
    y_true = {"teacher": logits[0], "labels": labels} if loss.needs_teacher else labels
    values = tf.function(loss.call, autograph=False)(
        keras.tree.map_structure(tf.convert_to_tensor, y_true), logits[1]
    )
    np.testing.assert_array_equal(np.isnan(values), wrong)
