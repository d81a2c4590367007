"""Tests of the relational losses against published reference values and float64 NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def smooth_l1(difference):
    magnitude = np.abs(difference)
    return np.where(magnitude < 1, 0.5 * difference**2, magnitude - 0.5)


def distances(embeddings):
    """All pairwise distances over their mean, by the differences themselves."""
    rows = embeddings.reshape(len(embeddings), -1).astype("float64")
    distance = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(axis=-1))
    nonzero = distance[distance > 0]
    return distance / nonzero.mean() if nonzero.size else distance


def angles(embeddings):
    """The cosine of the angle at i between j and k, by unit vectors along the differences."""
    rows = embeddings.reshape(len(embeddings), -1).astype("float64")
    difference = rows[None] - rows[:, None]
    length = np.sqrt((difference**2).sum(axis=-1, keepdims=True))
    unit = np.divide(difference, length, out=np.zeros_like(difference), where=length > 0)
    return np.einsum("ijd,ikd->ijk", unit, unit)


def per_anchor(relations):
    def loss(teacher, student):
        values = smooth_l1(relations(student) - relations(teacher))
        return values.reshape(len(values), -1).mean(axis=1)

    return loss


EQUATIONS = {"rkd_distance": per_anchor(distances), "rkd_angle": per_anchor(angles)}
every_relation = pytest.mark.parametrize("identifier", EQUATIONS)


@every_relation
def test_rkd_equals_the_reference_implementation(identifier, golden, gradient):
    reference = golden(identifier)
    loss, teacher, student = mr.losses.get(identifier), reference["teacher"], reference["student"]
    np.testing.assert_allclose(loss(teacher, student), reference["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        gradient(lambda f: loss(teacher, f), student), reference["grad_student"], 1e-5, 1e-9
    )


def test_rkd_of_both_kinds_equals_the_reference_implementation(golden, gradient):
    reference = golden("rkd")
    teacher, student = reference["teacher"], reference["student"]
    distance, angle = mr.losses.RKDDistance(), mr.losses.RKDAngle()
    weights = float(reference["distance_weight"]), float(reference["angle_weight"])
    assert weights == (distance.default_weight, angle.default_weight)

    def both(values):
        return weights[0] * distance(teacher, values) + weights[1] * angle(teacher, values)

    np.testing.assert_allclose(both(student), reference["loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient(both, student), reference["grad_student"], 1e-5, 1e-7)


@every_relation
@pytest.mark.parametrize(
    ("teacher_shape", "student_shape"),
    [
        ((6, 5), (6, 9)),
        ((5, 2, 2, 3), (5, 4)),
        ((2, 3), (2, 3)),
        ((7, 1), (7, 2)),
        ((17, 2), (17, 2)),
    ],
    ids=str,
)
def test_rkd_equals_its_equation(
    identifier, teacher_shape, student_shape, random, gradient, finite_differences
):
    teacher = random.normal(size=teacher_shape).astype("float32")
    student = random.normal(size=student_shape).astype("float32")
    loss, equation = mr.losses.get(identifier), EQUATIONS[identifier]
    np.testing.assert_allclose(
        loss.call(teacher, student), equation(teacher, student), rtol=2e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        gradient(lambda f: loss.call(teacher, f), student),
        finite_differences(lambda f: equation(teacher, f).sum(), student),
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("batch", [1, 15, 16, 33])
def test_angles_are_those_of_all_anchors_where_the_batch_is_not_known(batch, random):
    loss = mr.losses.RKDAngle()
    signature = [tf.TensorSpec((None, width), "float32") for width in (5, 4)]
    compiled = tf.function(loss.call, input_signature=signature)
    teacher, student = (random.normal(size=(batch, n)).astype("float32") for n in (5, 4))
    expected = EQUATIONS["rkd_angle"](teacher, student)
    np.testing.assert_allclose(compiled(teacher, student), expected, rtol=2e-5, atol=1e-7)


@every_relation
def test_an_empty_batch_has_no_values(identifier):
    loss = mr.losses.get(identifier)
    signature = [tf.TensorSpec((None, 3), "float32")] * 2

    @tf.function(input_signature=signature)
    def values_and_gradient(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            values = loss.call(teacher, student)
        return values, tape.gradient(values, student)

    values, gradient = values_and_gradient(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (values.shape, gradient.shape) == ((0,), (0, 3))


@every_relation
def test_duplicated_rows_count_as_zero_apart(identifier, random):
    teacher = random.normal(size=(6, 5)).astype("float32")
    student = random.normal(size=(6, 9)).astype("float32")
    teacher[3], student[1] = teacher[0], student[4]
    np.testing.assert_allclose(
        mr.losses.get(identifier).call(teacher, student),
        EQUATIONS[identifier](teacher, student),
        rtol=2e-5,
    )


def test_the_mean_distance_is_taken_over_the_pairs_that_are_apart():
    # Two clusters of two: of 16 pairs 8 are a distance of 3 apart, so each counts as 1.
    clusters = np.array([[0.0], [0.0], [3.0], [3.0]])
    # Distances 1, 2, 3 on a line: their mean over the 12 pairs is 5 / 3.
    line = np.array([[0.0], [1.0], [2.0], [3.0]])
    ahead = np.array([0, 1, 2, 3]) * 0.6
    expected = smooth_l1(np.array([0, 0, 1, 1]) - ahead).mean()
    values = mr.losses.RKDDistance().call(line, clusters)
    assert float(values[0]) == pytest.approx(expected, rel=1e-5)


@every_relation
def test_a_batch_of_one_has_no_relations(identifier, random, gradient):
    teacher, student = random.normal(size=(2, 1, 8)).astype("float32")
    loss = mr.losses.get(identifier)
    np.testing.assert_array_equal(loss.call(teacher, student), [0.0])
    flat = gradient(lambda f: loss.call(teacher, f), student)
    np.testing.assert_array_equal(flat, np.zeros((1, 8)))


@every_relation
def test_relations_ignore_scale_shift_and_rotation(identifier, random):
    teacher = random.normal(size=(6, 5)).astype("float32")
    rotation, _ = np.linalg.qr(random.normal(size=(5, 5)))
    student = 3.0 * teacher @ rotation + 20.0
    values = mr.losses.get(identifier).call(teacher, student.astype("float32"))
    np.testing.assert_allclose(values, np.zeros(6), atol=1e-8)


@every_relation
def test_coinciding_samples_get_no_gradient_from_each_other(identifier, random, gradient):
    teacher = random.normal(size=(4, 5)).astype("float32")
    student = np.ones((4, 5), "float32")
    flat = gradient(lambda f: mr.losses.get(identifier).call(teacher, f), student)
    np.testing.assert_array_equal(flat, np.zeros((4, 5)))
