"""What holds for every registered loss, over the registry."""

import traceback
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.inputs.cases import (
    BATCH,
    DEGENERATE,
    assert_close,
    changed,
    degenerate,
    normal,
    with_labels,
)
from tests.support.inputs.method_examples import NOT_ZERO_AT_TEACHER, loss_shapes

every_loss = pytest.mark.parametrize("identifier", components("loss"))


def example(loss, random, batch=BATCH):
    """Returns what a loss is called with: the teacher's side and the student's."""
    teacher, student = (normal(shape, batch, random) for shape in loss_shapes(loss))
    return with_labels(loss, teacher), student


def counterpart(loss, student):
    """Returns a teacher that equals the student."""
    if not loss.student_extras:
        return student
    kept = student[: -loss.student_extras]
    return kept if isinstance(loss_shapes(loss)[0], list) else kept[0]


def taken(rows, sides):
    """Returns some samples of the batch, labels included."""
    return keras.tree.map_structure(lambda values: values[rows], sides)


def value_and_gradients(loss, teacher, student):
    """Returns the values per sample and the gradients of their sum: to the student, the teacher."""
    teacher, student = (changed(tf.convert_to_tensor, side) for side in (teacher, student))
    constant = teacher["teacher"] if isinstance(teacher, dict) else teacher
    if not loss.needs_teacher:
        # The labels alone, which have no gradient.
        constant = []
    with tf.GradientTape() as tape:
        tape.watch([constant, student])
        values = loss.call(teacher, student)
    gradients = tape.gradient(values, [student, constant])
    return values.numpy(), *(keras.tree.flatten(gradient) for gradient in gradients)


@every_loss
def test_loss_survives_its_config(identifier, round_trip, random):
    loss = mr.losses.get(identifier, name="renamed", reduction="sum")
    again = round_trip(loss)
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert (again.name, again.reduction) == ("renamed", "sum")
    teacher, student = example(loss, random)
    np.testing.assert_array_equal(again.call(teacher, student), loss.call(teacher, student))


@every_loss
def test_loss_gives_one_float32_value_per_sample_whose_mean_is_the_loss(identifier, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    values = loss.call(teacher, student)
    assert tuple(values.shape) == (BATCH,)
    assert values.dtype == tf.float32
    assert_close(loss(teacher, student), np.mean(values))


@every_loss
def test_sample_weights_multiply_the_values_of_a_loss(identifier, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    weights = np.arange(BATCH, dtype="float32")
    expected = np.mean(weights * loss.call(teacher, student))
    assert_close(loss(teacher, student, sample_weight=weights), expected)


@pytest.mark.parametrize(
    "identifier", [name for name in components("loss") if name not in NOT_ZERO_AT_TEACHER]
)
def test_loss_is_zero_and_flat_where_the_student_equals_the_teacher(identifier, random):
    loss = mr.losses.get(identifier)
    _, student = example(loss, random)
    teacher = with_labels(loss, counterpart(loss, student))
    values, gradients, _ = value_and_gradients(loss, teacher, student)
    assert_close(values, np.zeros(BATCH))
    for gradient in gradients:
        assert_close(gradient, np.zeros(gradient.shape), atol=1e-5)


@every_loss
def test_loss_moves_the_student_and_never_the_teacher(identifier, random):
    loss = mr.losses.get(identifier)
    _, to_student, to_teacher = value_and_gradients(loss, *example(loss, random))
    assert all(1e-6 < np.abs(gradient).max() < 1e3 for gradient in to_student)
    if not loss.teacher_learns:
        assert all(gradient is None or not np.any(gradient) for gradient in to_teacher)
    elif loss.needs_teacher:
        assert all(1e-6 < np.abs(gradient).max() < 1e3 for gradient in to_teacher)


@every_loss
@pytest.mark.parametrize("size", [50.0, 500.0])
def test_loss_stays_in_range_for_large_inputs(identifier, size, random):
    loss = mr.losses.get(identifier)
    teacher, features = example(loss, random)
    sides = [changed(lambda t: t * size, side) for side in (teacher, features)]
    if loss.student_extras:
        # What an adapter adds, such as a log variance, does not grow with the features.
        sides[1][-loss.student_extras :] = features[-loss.student_extras :]
    if identifier == "gaussian_kd":  # nor do those of a network
        half = features.shape[-1] // 2
        given = (teacher, features)
        sides = [np.concatenate([size * z[:, :half], z[:, half:]], axis=1) for z in given]
    values, gradients, _ = value_and_gradients(loss, *sides)
    # At most with the square of the inputs; FSP multiplies features before it squares, and the
    # gradient to a log variance is as large as the value.
    power = {"fsp": 4, "gaussian_kd": 3}.get(identifier, 2)
    assert (np.abs(values) < 1e3 * size**power).all()
    # The entropy of the student alone vanishes where it is sure, LSP's kernel where all are far.
    vanishes = identifier == "lsp" or not loss.needs_teacher
    assert np.abs(values).max() > 1e-5 or vanishes
    assert all(np.abs(gradient).max() < 1e3 * size ** (power - 1) for gradient in gradients)


@every_loss
def test_loss_takes_a_batch_of_one(identifier, random):
    loss = mr.losses.get(identifier)
    values, gradients, _ = value_and_gradients(loss, *example(loss, random, batch=1))
    assert values.shape == (1,)
    # Rewards and densities alone may be negative: the others measure a distance.
    assert (-1e3 if identifier in NOT_ZERO_AT_TEACHER else 0.0) <= values[0] < 1e3
    assert all(np.abs(gradient).max() < 1e3 for gradient in gradients)


@every_loss
def test_permuting_the_batch_permutes_the_values_of_a_loss(identifier, random):
    loss = mr.losses.get(identifier)
    sides, order = example(loss, random), random.permutation(BATCH)
    assert_close(loss.call(*taken(order, sides)), loss.call(*sides).numpy()[order])


@every_loss
@pytest.mark.parametrize("kind", DEGENERATE)
def test_loss_has_bounded_gradients_where_samples_coincide(identifier, kind, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    collapse = degenerate(kind)
    for sides in ((teacher, changed(collapse, student)), (changed(collapse, teacher), student)):
        values, gradients, _ = value_and_gradients(loss, *sides)
        assert (np.abs(values) < 1e3).all()
        assert all(np.abs(gradient).max() < 1e3 for gradient in gradients)


@every_loss
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_loss_computes_in_float32_whatever_it_is_given(identifier, dtype, random):
    loss = mr.losses.get(identifier)
    low = [changed(lambda t: tf.cast(t, dtype), side) for side in example(loss, random)]
    exact = [changed(lambda t: tf.cast(t, "float32"), side) for side in low]
    values = loss.call(*low)
    assert values.dtype == tf.float32
    assert_close(values, loss.call(*exact), rtol=1e-6, atol=0)


@every_loss
@pytest.mark.usefixtures("mixed_bfloat16")
def test_loss_is_float32_under_a_policy_of_low_precision(identifier, random):
    loss = mr.losses.get(identifier)
    teacher, student = example(loss, random)
    value = loss(teacher, student)
    assert value.dtype == tf.float32
    assert_close(value, np.mean(loss.call(teacher, student)))


@every_loss
def test_loss_compiled_by_xla_equals_the_eager_one(identifier, random):
    loss = mr.losses.get(identifier)
    sides = [changed(tf.convert_to_tensor, side) for side in example(loss, random)]
    compiled = tf.function(loss.call, jit_compile=True, autograph=False)
    assert_close(compiled(*sides), loss.call(*sides))


@every_loss
def test_each_replica_computes_the_eager_values_of_its_half_in_a_graph(
    identifier, two_replicas, random
):
    with two_replicas.scope():
        loss = mr.losses.get(identifier)
    sides = example(loss, random)
    halves = [taken(slice(half, None, 2), sides) for half in range(2)]

    @tf.function(autograph=False)
    def replicated():
        def on_replica():
            here = tf.distribute.get_replica_context().replica_id_in_sync_group
            return loss.call(*keras.tree.map_structure(lambda *both: tf.stack(both)[here], *halves))

        return two_replicas.experimental_local_results(two_replicas.run(on_replica))

    results = replicated()
    assert len(results) == 2
    for values, half in zip(results, halves, strict=True):
        assert_close(values, loss.call(*half))


def symbolic(shapes):
    """Returns what a graph is traced with: tensors without values."""
    if isinstance(shapes, list):
        return [symbolic(shape) for shape in shapes]
    return tf.TensorSpec((None, *shapes), "float32")


def first(side):
    return side[0] if isinstance(side, list) else side


def several(side):
    return side if isinstance(side, list) else [side, side]


@every_loss
def test_loss_refuses_lists_and_tensors_in_the_wrong_places(identifier):
    """It takes what is given, or raises an error of its own: nothing else fails inside."""
    loss = mr.losses.get(identifier)
    teacher, student = map(symbolic, loss_shapes(loss))
    vector, maps = symbolic((5,)), symbolic((4, 4, 6))
    pairs = [
        (first(teacher), first(student)),
        (first(teacher), student),
        (teacher, first(student)),
        (several(teacher), several(student)),
        (several(teacher), student),
        ([], []),
        ([maps, maps], [vector, vector]),
    ]
    package = Path(mr.__file__).parent
    for teacher, student in (pair for pair in pairs if pair != (teacher, student)):
        given = {"teacher": teacher, "labels": tf.TensorSpec((None,), "int32")}
        given = given if loss.needs_labels else teacher
        try:
            tf.function(loss.call, autograph=False).get_concrete_function(given, student)
        except (TypeError, ValueError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            assert Path(last.filename).is_relative_to(package), last
            assert last.line.startswith("raise "), last
