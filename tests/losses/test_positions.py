"""What holds for every loss on logits: axes between batch and classes, masks, labels, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.registry import components

CLASSES = 8
RESPONSES = {
    name: cls
    for name, cls in components("loss").items()
    if issubclass(cls, ResponseLoss) and cls.__module__.startswith("modreduce_keras.")
}
every_response = pytest.mark.parametrize("identifier", RESPONSES)
LABELLED = [name for name, cls in RESPONSES.items() if cls.needs_labels]
# What compares all rows of a batch by their Gram matrices knows rows only.
ROWS_ONLY = {"multi_level"}
SHAPES = [(6,), (4, 3), (2, 3, 2)]


def in_every_shape(identifiers):
    cases = [(name, s) for name in identifiers for s in SHAPES[: 1 if name in ROWS_ONLY else None]]
    return pytest.mark.parametrize(("identifier", "shape"), cases, ids=str)


@pytest.fixture
def positions(random):
    """Returns a function that makes teacher, student, labels and mask for a shape."""

    def make(shape):
        teacher, student = random.normal(size=(2, *shape, CLASSES)).astype("float32")
        mask = random.random(shape) < 0.6
        # The first sample keeps all of its positions and the last none.
        mask[0], mask[-1] = True, False
        return teacher, student, random.integers(CLASSES, size=shape), mask

    return make


def call(loss, teacher, student, labels=None, mask=None):
    """Calls a loss with as much as it takes, the student's list completed by zeros."""
    given = {"teacher": teacher, "labels": labels, "mask": mask}
    needed = {"teacher": loss.needs_teacher, "labels": loss.needs_labels, "mask": mask is not None}
    y_true = {key: given[key] for key in given if needed[key]}
    if loss.student_extras:
        student = [student, tf.zeros((*student.shape[:-1], 1))]
    return loss.call(y_true or None, student)


def rows_kept(mask, *arrays):
    return [array[mask] for array in arrays]


@in_every_shape(RESPONSES)
def test_a_sample_is_the_mean_of_its_positions(identifier, shape, positions):
    teacher, student, labels, _ = positions(shape)
    loss = mr.losses.get(identifier)
    by_row = call(loss, *rows_kept(np.full(shape, True), teacher, student, labels))
    expected = by_row.numpy().reshape(shape[0], -1).mean(axis=1)
    values = call(loss, teacher, student, labels)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


@in_every_shape(RESPONSES)
def test_a_mask_leaves_positions_out(identifier, shape, positions, gradient):
    """As if the positions were not there, scaled so that the mean is over those that stay."""
    teacher, student, labels, mask = positions(shape)
    loss = mr.losses.get(identifier)
    kept = rows_kept(mask, teacher, student, labels)
    by_row = np.zeros(shape)
    by_row[mask] = call(loss, *kept)
    expected = by_row.reshape(shape[0], -1).mean(axis=1) / mask.mean()
    values = call(loss, teacher, student, labels, mask)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(values), by_row[mask].mean(), rtol=1e-5)

    slopes = np.zeros(student.shape)
    slopes[mask] = gradient(lambda z: tf.reduce_mean(call(loss, kept[0], z, kept[2])), kept[1])
    actual = gradient(
        lambda z: tf.reduce_mean(call(loss, teacher, z, labels, mask)), student
    ).numpy()
    np.testing.assert_allclose(actual, slopes, atol=1e-5 * np.abs(slopes).max())
    np.testing.assert_array_equal(actual[~mask], 0.0)


@in_every_shape(RESPONSES)
def test_what_a_mask_leaves_out_may_be_anything(identifier, shape, positions, gradient):
    teacher, student, labels, mask = positions(shape)
    loss = mr.losses.get(identifier)
    expected = call(loss, teacher, student, labels, mask)
    slopes = gradient(lambda z: call(loss, teacher, z, labels, mask), student)
    for index, rubbish in enumerate((np.nan, -np.inf, np.inf)):
        place = tuple(np.argwhere(~mask)[index % (~mask).sum()])
        teacher[place], student[place], labels[place] = rubbish, rubbish, 255
    np.testing.assert_array_equal(call(loss, teacher, student, labels, mask), expected)
    again = gradient(lambda z: call(loss, teacher, z, labels, mask), student)
    np.testing.assert_array_equal(again, slopes)


@in_every_shape(RESPONSES)
def test_a_mask_of_zeros_gives_zeros(identifier, shape, positions, gradient):
    teacher, student, labels, _ = positions(shape)
    loss, mask = mr.losses.get(identifier), np.zeros(shape, "bool")
    labels[:] = -1
    values = call(loss, teacher, student, labels, mask)
    np.testing.assert_array_equal(values, np.zeros(shape[0]))
    slopes = gradient(lambda z: call(loss, teacher, z, labels, mask), student)
    np.testing.assert_array_equal(slopes, np.zeros(student.shape))


@every_response
def test_a_mask_of_ones_changes_nothing_and_may_be_of_any_type(identifier, positions):
    teacher, student, labels, mask = positions((6,))
    loss = mr.losses.get(identifier)
    plain = call(loss, teacher, student, labels)
    full = call(loss, teacher, student, labels, np.ones(6, "bool"))
    np.testing.assert_allclose(full, plain, rtol=1e-6)
    by_type = [
        call(loss, teacher, student, labels, given)
        for given in (mask, mask.astype("int32"), mask.astype("float32"), mask.tolist())
    ]
    for values in by_type[1:]:
        np.testing.assert_array_equal(values, by_type[0])


@every_response
@pytest.mark.parametrize("jit_compile", [False, True])
def test_masks_and_labels_of_unknown_size_compile(identifier, jit_compile, positions):
    shape = (6,) if identifier in ROWS_ONLY else (4, 3)
    arguments = positions(shape)
    loss = mr.losses.get(identifier)
    unknown = [None] * len(shape)
    signature = [
        tf.TensorSpec([*unknown, *given.shape[len(shape) :]], given.dtype) for given in arguments
    ]

    @tf.function(input_signature=signature, jit_compile=jit_compile, autograph=False)
    def compiled(teacher, student, labels, mask):
        return loss.per_sample(*sides(loss, teacher, student), labels, mask)

    expected = call(loss, *arguments)
    np.testing.assert_allclose(compiled(*arguments), expected, rtol=1e-5, atol=1e-6)


def sides(loss, teacher, student):
    extras = [tf.zeros_like(student[..., :1])] * loss.student_extras
    return teacher, ([student, *extras] if extras else student)


@every_response
@pytest.mark.parametrize("wrong", [(5,), (6, 1), (6, CLASSES), (1,)])
def test_a_mask_of_another_shape_is_refused(identifier, wrong, positions):
    teacher, student, labels, _ = positions((6,))
    loss = mr.losses.get(identifier)
    message = (
        rf"{type(loss).__name__} needs a mask with one value for each position of the logits. "
        rf"Received: a mask of shape \({', '.join(map(str, wrong))}(,|\)).*"
        rf"logits of shape \(6, {CLASSES}\)"
    )
    with pytest.raises(ValueError, match=message):
        call(loss, teacher, student, labels, np.ones(wrong))


@in_every_shape(LABELLED)
def test_labels_may_be_indices_a_column_or_one_hot(identifier, shape, positions):
    teacher, student, labels, mask = positions(shape)
    loss = mr.losses.get(identifier)
    expected = call(loss, teacher, student, labels, mask)
    for form in (labels[..., None], np.eye(CLASSES)[labels], labels.astype("float32")):
        np.testing.assert_array_equal(call(loss, teacher, student, form, mask), expected)


@pytest.mark.parametrize("identifier", LABELLED)
def test_labels_of_another_shape_are_refused(identifier, positions):
    teacher, student, labels, _ = positions((4, 3))
    loss = mr.losses.get(identifier)
    message = rf"{type(loss).__name__} needs labels with one value \(or one-hot\) for each position"
    for wrong in (labels[:, 0], labels[:2], np.zeros((4, 3, 4)), np.zeros((4, 3, 5, 1))):
        with pytest.raises(ValueError, match=message):
            call(loss, teacher, student, wrong)


@every_response
def test_logits_of_other_shapes_are_refused(identifier):
    loss = mr.losses.get(identifier)
    message = rf"{type(loss).__name__} needs logits \(batch, ..., classes\) of equal shape"
    for teacher, student in (((4, 10), (4, 12)), ((4, 2, 10), (4, 10)), ((4,), (4,))):
        if not loss.needs_teacher and len(student) > 1:
            continue
        with pytest.raises(ValueError, match=message) as error:
            call(loss, tf.zeros(teacher), tf.zeros(student), np.zeros(student[:-1], "int32"))
        shown = student if not loss.needs_teacher else teacher
        assert f"teacher of shape {shown} and student of shape {student}" in str(error.value)


@every_response
def test_only_losses_on_plain_numbers_take_a_single_one(identifier):
    # A mean and a variance are one number.
    single = tf.ones((4, 2 if identifier == "gaussian_kd" else 1))
    loss = mr.losses.get(identifier)
    if loss.least_classes == 1:
        np.testing.assert_array_equal(call(loss, single, 3.0 * single) > 0, np.full(4, True))
        return
    with pytest.raises(ValueError, match=r"of at least two classes \('logit_mse' and 'logit_l1'"):
        call(loss, single, single, np.zeros(4, "int32"))


def test_a_loss_alone_takes_a_mask_too(positions):
    teacher, student, labels, mask = positions((4, 3))
    loss = mr.losses.DKD()
    y_true = {"teacher": teacher, "labels": labels, "mask": mask}
    expected = np.mean(call(loss, teacher, student, labels, mask))
    np.testing.assert_allclose(loss(y_true, student), expected, rtol=1e-6)


class LabelledGap(ResponseLoss):
    """A loss of the user's own that looks labels up, which have to be classes."""

    identifier = "labelled_gap"
    needs_labels = True

    def per_position(self, teacher, student, labels=None, mask=None):
        at = keras.ops.expand_dims(labels, -1)
        return keras.ops.take_along_axis(student - teacher, at, axis=-1)[..., 0]


def test_labels_that_a_mask_leaves_out_are_classes_again(positions):
    teacher, student, labels, mask = positions((4, 3))
    expected = call(LabelledGap(), teacher, student, labels, mask)
    for ignored in (255, -1):
        labels[~mask] = ignored
        values = call(LabelledGap(), teacher, student, labels, mask)
        np.testing.assert_array_equal(values, expected)


def test_per_position_is_to_be_written(positions):
    teacher, student, *_ = positions((6,))
    abstract = ResponseLoss(name="abstract")
    with pytest.raises(NotImplementedError):
        abstract.call(teacher, student)


@pytest.fixture
def tokens(random):
    """Padded tokens, a student that masks the padding, and what a teacher says of each token."""
    student = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(9, 3, mask_zero=True),
            keras.layers.Dense(CLASSES),
        ]
    )
    kept = np.arange(4) < random.integers(1, 5, size=(8, 1))
    indices = np.where(kept, random.integers(1, 9, size=(8, 4)), 0)
    return student, indices, random.normal(size=(8, 4, CLASSES)).astype("float32"), kept


def test_padding_that_keras_masks_does_not_count(tokens):
    student, indices, logits, kept = tokens
    loss = mr.losses.KD(temperature=2.0)
    student.compile(keras.optimizers.Adam(0.1), loss)
    rows = logits[kept], np.array(student(indices))[kept]
    expected = np.mean(loss.call(*rows))
    logits[~kept] = np.nan
    history = student.fit(indices, logits, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert history[0] == pytest.approx(expected, rel=1e-5)
    assert history[2] < history[1] < history[0]


@pytest.mark.parametrize("identifier", ["confidence_penalty", "teacher_free"])
def test_padding_does_not_count_without_a_teacher_either(identifier, tokens):
    student, indices, _, kept = tokens
    loss, labels = mr.losses.get(identifier), np.where(kept, indices % CLASSES, 255)
    student.compile("sgd", loss)
    expected = np.mean(call(loss, None, np.array(student(indices))[kept], labels[kept]))
    assert student.evaluate(indices, labels, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_a_mask_that_is_given_goes_before_that_of_keras(tokens, random):
    student, indices, logits, _ = tokens
    loss, given = mr.losses.LogitL1(), random.random((8, 4)) < 0.5
    outputs = student(indices)
    value = loss({"teacher": logits, "mask": given}, outputs)
    expected = np.abs(np.array(outputs) - logits)[given].mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert outputs._keras_mask is not None
