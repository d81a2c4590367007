"""Masks on features: what is left out counts for nothing, in any loss that takes them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.losses.attention_base import AttentionLoss
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.registry import components

LENGTH, CHANNELS = 6, 4
OURS = {
    name: cls
    for name, cls in components("loss").items()
    if cls.__module__.startswith("modreduce_keras.")
    # Of logits, of attention maps, whose positions are others, and of graphs, which need edges:
    # they have tests of their own.
    and not issubclass(cls, (ResponseLoss, AttentionLoss, mr.losses.LSP))
}
MASKED = [name for name, cls in OURS.items() if cls.masks()]
REFUSED = [name for name, cls in OURS.items() if not cls.masks()]
every_masked = pytest.mark.parametrize("identifier", MASKED)


def sides(loss, teacher, student):
    """Returns both sides as a loss takes them, the student's list completed by zeros."""
    extras = [tf.zeros((len(student), CHANNELS))] * loss.student_extras
    return teacher, ([student, *extras] if extras else student)


def call(loss, teacher, student, mask=None):
    teacher, student = sides(loss, teacher, student)
    given = {} if mask is None else {"mask": mask}
    if loss.label_maps:
        given["labels"] = np.indices(student.shape[:-1]).sum(axis=0) % 2
    if loss.label_numbers:
        given["labels"] = np.broadcast_to(np.arange(4.0), teacher.shape)
    return loss.call({"teacher": teacher, **given} if given else teacher, student)


@pytest.fixture
def features(random):
    """A teacher's and a student's sequences, and a mask that keeps some of each."""
    teacher, student = random.normal(size=(2, 5, LENGTH, CHANNELS)).astype("float32")
    return teacher, student, np.arange(LENGTH) < np.array([[6], [2], [4], [1], [3]])


def test_these_losses_take_masks():
    expected = "ab at cc cka cosine cwd dino fgd_global fgfi ft hint ickd ifvd listwise mgd"
    expected += " minilm_relation nst ofd pairwise pkd pkt rkd_angle rkd_distance simkd sp"
    expected += " teacher_bounded vid"
    assert sorted(MASKED) == expected.split()


@every_masked
def test_masked_positions_might_as_well_not_be_there(identifier, features, gradient):
    teacher, student, _ = features
    loss, mask = mr.losses.get(identifier), np.full((5, LENGTH), True)
    mask[:, 4:] = False
    expected = call(loss, teacher[:, :4], student[:, :4])
    np.testing.assert_allclose(call(loss, teacher, student, mask), expected, rtol=1e-4, atol=1e-6)
    slopes = gradient(lambda s: call(loss, teacher[:, :4], s), student[:, :4])
    actual = gradient(lambda s: call(loss, teacher, s, mask), student).numpy()
    np.testing.assert_allclose(actual[:, :4], slopes, rtol=1e-3, atol=1e-5 * np.abs(slopes).max())
    np.testing.assert_array_equal(actual[:, 4:], 0.0)


@every_masked
def test_what_a_mask_leaves_out_may_be_anything(identifier, features, gradient):
    teacher, student, mask = features
    loss = mr.losses.get(identifier)
    expected = call(loss, teacher, student, mask)
    slopes = gradient(lambda s: call(loss, teacher, s, mask), student)
    for index, rubbish in enumerate((np.nan, -np.inf, np.inf, 1e30)):
        place = tuple(np.argwhere(~mask)[index])
        teacher[place], student[place] = rubbish, rubbish
    np.testing.assert_array_equal(call(loss, teacher, student, mask), expected)
    again = gradient(lambda s: call(loss, teacher, s, mask), student)
    np.testing.assert_array_equal(again, slopes)


@every_masked
def test_a_mask_of_ones_changes_nothing_and_one_of_zeros_leaves_nothing(identifier, features):
    teacher, student, mask = features
    loss = mr.losses.get(identifier)
    plain = call(loss, teacher, student)
    np.testing.assert_allclose(call(loss, teacher, student, mask | True), plain, rtol=1e-5)
    elsewhere = call(loss, teacher[::-1], 3.0 * student, mask & False)
    np.testing.assert_array_equal(call(loss, teacher, student, mask & False), elsewhere)


def mean_squares(teacher, student, mask):
    kept = ((student - teacher) ** 2).mean(-1)[mask]
    return kept.mean()


def attention(teacher, student, mask):
    """The squared differences of all kept positions, over their number."""
    squares = []
    for one, other, kept in zip(teacher, student, mask, strict=True):
        a, b = ((side[kept] ** 2).mean(-1) for side in (one, other))
        squares.append((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2)
    return np.concatenate(squares).mean()


def inner(features, mask):
    """The products of all pairs of samples, over the positions that both keep."""
    number = len(mask)
    gram = np.zeros((number, number))
    for i in range(number):
        for j in range(number):
            both = mask[i] & mask[j]
            gram[i, j] = (features[i][both] * features[j][both]).sum()
    return gram


def similarity(teacher, student, mask):
    grams = [inner(side, mask) for side in (student, teacher)]
    rows = [gram / np.linalg.norm(gram, axis=1, keepdims=True) for gram in grams]
    return ((rows[0] - rows[1]) ** 2).mean()


def distance(teacher, student, mask):
    """By the law of cosines from the products: what only one of two keeps is far from nothing."""
    both = []
    for side in (student, teacher):
        gram = inner(side, mask)
        squared = np.diag(gram)[:, None] + np.diag(gram)[None] - 2.0 * gram
        lengths = np.sqrt(np.maximum(squared, 0.0))
        both.append(lengths / lengths[lengths > 1e-9].mean())
    difference = np.abs(both[0] - both[1])
    return np.where(difference < 1, 0.5 * difference**2, difference - 0.5).mean()


def alignment(teacher, student, mask):
    number = len(mask)
    centre = np.eye(number) - 1.0 / number
    grams = [centre @ inner(side, mask) @ centre for side in (teacher, student)]
    product = (grams[0] * grams[1]).sum()
    return 1.0 - product / (np.linalg.norm(grams[0]) * np.linalg.norm(grams[1]))


EQUATIONS = {
    "hint": mean_squares,
    "simkd": mean_squares,
    "at": attention,
    "sp": similarity,
    "rkd_distance": distance,
    "cka": alignment,
}


@pytest.mark.parametrize("identifier", EQUATIONS)
def test_the_value_is_that_of_the_kept_positions(identifier, features):
    teacher, student, mask = features
    value = np.mean(call(mr.losses.get(identifier), teacher, student, mask))
    exact = EQUATIONS[identifier](teacher.astype("float64"), student.astype("float64"), mask)
    np.testing.assert_allclose(value, exact, rtol=1e-4)


def test_a_loss_of_maps_takes_a_mask_of_their_rows_or_of_their_positions(random):
    teacher, student = random.normal(size=(2, 3, 4, 5, 2)).astype("float32")
    rows = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    everywhere = np.repeat(rows[..., None], 5, axis=-1)
    for identifier in ("hint", "at", "sp"):
        loss = mr.losses.get(identifier)
        np.testing.assert_allclose(
            call(loss, teacher, student, rows), call(loss, teacher, student, everywhere), rtol=1e-6
        )


@pytest.mark.parametrize("identifier", REFUSED)
def test_other_losses_refuse_a_keras_mask_and_name_those_that_take_one(identifier):
    loss, masked = mr.losses.get(identifier), tf.ones((2, LENGTH, CHANNELS))
    masked._keras_mask = tf.ones((2, LENGTH), "bool")
    with pytest.raises(ValueError, match=r"These losses take masks: \[.*'at'.*'hint'.*'sp'"):
        loss(masked, masked)


@pytest.mark.parametrize("wrong", [(5,), (2, 7), (2, LENGTH, CHANNELS)])
def test_a_mask_of_another_shape_is_refused(wrong):
    features = np.ones((2, LENGTH, CHANNELS), "float32")
    with pytest.raises(ValueError, match="SimilarityPreserving needs a mask with one value for"):
        call(mr.losses.get("sp"), features, features, np.ones(wrong))


def test_a_student_that_masks_is_trained_by_a_loss_alone(random):
    """With no distiller: the Keras mask of the student's features is the mask."""
    tokens = np.array([[3, 4, 0], [5, 0, 0], [1, 2, 3]])
    student = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(9, 2, mask_zero=True)]
    )
    target = random.normal(size=(3, 3, 2)).astype("float32")
    student.compile("sgd", mr.losses.Hint())
    squares = (student.predict(tokens, verbose=0) - target) ** 2
    expected = squares.mean(-1)[tokens != 0].mean()
    np.testing.assert_allclose(student.evaluate(tokens, target, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "identifier", [name for name, cls in components("loss").items() if cls.one_feature]
)
def test_a_list_of_features_for_a_loss_of_one_is_refused(identifier):
    loss, several = mr.losses.get(identifier), [np.ones((2, 4, 4, 3))] * 2
    given = {"teacher": several, "labels": np.zeros(2)} if loss.needs_labels else several
    if not loss.needs_teacher:
        return
    with pytest.raises(ValueError, match=r"takes one feature of each model.*at='stage2'"):
        loss.call(given, several)
