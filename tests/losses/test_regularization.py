"""Losses without a teacher against float64 NumPy, and alone in `compile`."""

import keras
import numpy as np
import pytest
from scipy.special import entr, log_softmax, softmax

import modreduce_keras as mr


@pytest.fixture
def example(random):
    """Labels and logits."""
    return random.integers(6, size=7), 2.0 * random.normal(size=(7, 6))


def test_confidence_penalty_equals_numpy(example, assert_equals_numpy):
    def negative_entropy(_, student):
        return np.array([-sum(entr(p) for p in row) for row in softmax(student, axis=1)])

    assert_equals_numpy(mr.losses.ConfidencePenalty(), negative_entropy, *example)


def test_confidence_penalty_is_least_where_nothing_is_known_and_zero_where_all_is(gradient):
    loss = mr.losses.ConfidencePenalty()
    even, sure = np.full((1, 10), 3.0, "float32"), 500.0 * np.eye(10, dtype="float32")
    assert float(loss(np.zeros(1), even)) == pytest.approx(-np.log(10), rel=1e-6)
    np.testing.assert_allclose(gradient(lambda z: loss.call(None, z), even), 0.0, atol=1e-7)
    np.testing.assert_allclose(loss.call(None, -sure), np.full(10, -np.log(9)), rtol=1e-6)
    np.testing.assert_array_equal(loss.call(None, sure), np.zeros(10))
    np.testing.assert_array_equal(gradient(lambda z: loss.call(None, z), sure), np.zeros((10, 10)))


def teacher_free(labels, student, a=0.99, temperature=20.0):
    """The equation, with the hand-made probabilities written out and softened by a power."""
    values = []
    for y, z in zip(labels, student, strict=True):
        hand_made = np.full(len(z), (1 - a) / (len(z) - 1))
        hand_made[y] = a
        softened = hand_made ** (1 / temperature)
        softened /= softened.sum()
        log_s = log_softmax(z / temperature)
        pairs = zip(softened, log_s, strict=True)
        values.append(temperature**2 * sum(p * (np.log(p) - q) for p, q in pairs))
    return np.array(values)


@pytest.mark.parametrize(("a", "temperature"), [(0.99, 20.0), (0.9, 1.0), (0.6, 4.0)])
def test_teacher_free_equals_numpy(a, temperature, example, assert_equals_numpy):
    assert_equals_numpy(
        mr.losses.TeacherFree(correct_probability=a, temperature=temperature),
        lambda y, s: teacher_free(y, s, a, temperature),
        *example,
    )


@pytest.mark.parametrize("temperature", [20.0, 2.0])
def test_teacher_free_equals_numpy_in_the_reference_variant(
    temperature, example, assert_equals_numpy
):
    def reference(labels, student):
        hand_made = np.full(student.shape, 0.01 / 5)
        hand_made[np.arange(7), labels] = 0.99
        target = softmax(hand_made / temperature, axis=1)
        return (target * (np.log(target) - log_softmax(student, axis=1))).sum(axis=1)

    loss = mr.losses.TeacherFree(temperature=temperature, variant="reference")
    assert_equals_numpy(loss, reference, *example)


def test_teacher_free_is_zero_at_the_hand_made_probabilities():
    student = np.log([[0.005, 0.99, 0.005], [0.99, 0.005, 0.005]])
    for temperature in (1.0, 20.0):
        loss = mr.losses.TeacherFree(temperature=temperature)
        values = loss.call(np.array([1, 0]), student)
        np.testing.assert_allclose(values, [0.0, 0.0], atol=1e-7 * temperature**2)


def test_teacher_free_at_temperature_one_is_label_smoothing_but_for_a_constant(example, gradient):
    labels, student = example
    loss = mr.losses.TeacherFree(correct_probability=0.9, temperature=1.0)
    smoothed = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.1 * 6 / 5, reduction=None
    )
    one_hot = np.eye(6)[labels]
    difference = loss.call(labels, student) - smoothed(one_hot, student)
    np.testing.assert_allclose(difference, np.full(7, float(difference[0])), atol=3e-6)
    np.testing.assert_allclose(
        gradient(lambda z: loss.call(labels, z), student),
        gradient(lambda z: smoothed(one_hot, z), student),
        atol=1e-6,
    )


def test_teacher_free_of_huge_logits_is_exact(random):
    student, labels = random.choice([-500.0, 500.0], size=(6, 10)), random.integers(10, size=6)
    values = mr.losses.TeacherFree().call(labels, student)
    np.testing.assert_allclose(values, teacher_free(labels, student), rtol=1e-5)


def test_options_of_teacher_free_are_kept():
    loss = mr.losses.TeacherFree(correct_probability=0.9, variant="reference")
    config = loss.get_config()
    assert (config["correct_probability"], config["variant"]) == (0.9, "reference")
    assert mr.losses.TeacherFree().get_config()["temperature"] == 20.0


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.5, 1.5, None, "0.9", True, float("nan")])
def test_probabilities_that_make_no_sense_are_refused(probability):
    with pytest.raises(ValueError, match="correct_probability must be a number above 0 and below"):
        mr.losses.TeacherFree(correct_probability=probability)


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match=r"variant must be one of \['paper', 'reference'\]. Rec"):
        mr.losses.TeacherFree(variant="published")


@pytest.mark.parametrize("identifier", ["confidence_penalty", "teacher_free"])
def test_default_weight_is_the_published_one(identifier):
    assert mr.losses.get(identifier).default_weight == 0.1


@pytest.mark.parametrize("identifier", ["confidence_penalty", "teacher_free"])
@pytest.mark.parametrize("labels", ["indices", "column", "one-hot"])
def test_a_loss_without_a_teacher_trains_alone(identifier, labels, random):
    """`y_true` is then the labels themselves."""
    inputs, indices = random.normal(size=(32, 4)).astype("float32"), random.integers(3, size=32)
    y = {"indices": indices, "column": indices[:, None], "one-hot": np.eye(3)[indices]}[labels]
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    loss = mr.losses.get(identifier)
    student.compile(keras.optimizers.SGD(0.1), loss)
    expected = np.mean(loss.call(y, student(inputs)))
    history = student.fit(inputs, y, batch_size=32, epochs=3, verbose=0).history["loss"]
    assert history[0] == pytest.approx(expected, rel=1e-5)
    assert history[2] < history[1] < history[0]
