"""Tests of SHAKE: values by loops in float64, which term reaches whom, one step by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.inputs.cases import assert_close

BATCH, CLASSES = 4, 5
LABELS = np.array([0, 4, 2, 2])
VARIANTS = ["paper", "reference"]


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def divergence(target, prediction, temperature):
    """T² KL(target ‖ prediction) of two vectors of logits, term by term."""
    p, q = softmax(target / temperature), softmax(prediction / temperature)
    return temperature**2 * sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def standardized(logits):
    return 3.1415 * (logits - logits.mean()) / np.sqrt(logits.var() + 1e-7)


def terms(variant, shadow, teacher, student, label, temperature):
    """Returns SHAKE's terms of one sample: mutual to the student, mutual to the head, follows."""
    if variant == "reference":
        shadow, teacher, student = map(standardized, (shadow, teacher, student))
        follows = -np.log(softmax(shadow)[label]) + np.mean((shadow - teacher) ** 2)
    else:
        follows = divergence(teacher, shadow, temperature)
    to_student = divergence(shadow, student, temperature)
    return to_student, divergence(student, shadow, temperature), follows


@pytest.fixture
def logits(random):
    """Logits of the shadow head, the teacher and the student, float64."""
    return 2.0 * random.normal(size=(3, BATCH, CLASSES))


def call(loss, shadow, teacher, student, labels=LABELS):
    y_true = {"teacher": teacher, "labels": labels} if loss.needs_labels else teacher
    return loss.call(y_true, [student, shadow])


@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 1.0), (1.5, 0.3), (2.0, 0.0)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_shake_equals_numpy(variant, temperature, weight, logits):
    loss = mr.losses.SHAKE(temperature=temperature, mutual_weight=weight, variant=variant)
    expected = []
    for shadow, teacher, student, label in zip(*logits, LABELS, strict=True):
        to_student, to_shadow, follows = terms(
            variant, shadow, teacher, student, label, temperature
        )
        expected.append(weight * (to_student + to_shadow) + follows)
    assert_close(call(loss, *logits), expected)


# Which side each term reaches; what it does not reach is a constant in it.
GRADIENTS = {"student": [0], "shadow": [1, 2]}


@pytest.mark.parametrize("side", GRADIENTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_term_reaches_one_side_only(variant, side, logits, finite_differences):
    temperature, weight = 3.0, 0.7
    loss = mr.losses.SHAKE(temperature=temperature, mutual_weight=weight, variant=variant)
    place = {"shadow": 0, "student": 2}[side]
    variables = [tf.Variable(values, dtype="float32") for values in logits]
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(call(loss, *variables))
    gradient = tape.gradient(total, variables[place])
    factors = np.array([weight, weight, 1.0])

    def of_its_terms(values):
        sides = list(logits)
        sides[place] = values
        each = [terms(variant, *one, temperature) for one in zip(*sides, LABELS, strict=True)]
        return (factors * np.array(each))[:, GRADIENTS[side]].sum()

    assert_close(gradient, finite_differences(of_its_terms, logits[place]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "labels", [LABELS[:, None], np.eye(CLASSES)[LABELS]], ids=["(b, 1)", "one-hot"]
)
def test_labels_may_have_any_usual_form(labels, logits):
    loss = mr.losses.SHAKE(variant="reference")
    np.testing.assert_array_equal(call(loss, *logits, labels), call(loss, *logits))


def test_labels_that_are_no_class_are_not_trained_on(logits):
    loss, wrong = mr.losses.SHAKE(variant="reference"), np.array([0, 5, -1, 2])
    with pytest.raises(
        ValueError, match=r"SHAKE needs labels .* from 0 to 4. Received: .*\[-1, 5\]"
    ):
        call(loss, *logits, wrong)
    values = tf.function(lambda labels: call(loss, *logits, labels))(tf.constant(wrong))
    np.testing.assert_array_equal(np.isnan(values), [False, True, True, False])
    assert_close(np.array(values)[[0, 3]], np.array(call(loss, *logits))[[0, 3]])


def test_paper_is_zero_and_flat_where_all_three_agree(logits):
    student = tf.Variable(logits[0], dtype="float32")
    with tf.GradientTape() as tape:
        values = call(mr.losses.SHAKE(), student, student, student)
        total = tf.reduce_sum(values)
    assert_close(values, np.zeros(BATCH))
    assert_close(tape.gradient(total, student), np.zeros((BATCH, CLASSES)))


def test_variant_survives_the_config_and_is_checked(round_trip):
    loss = round_trip(mr.losses.SHAKE(variant="reference", mutual_weight=0.5))
    assert (loss.variant, loss.needs_labels, float(loss.mutual_weight)) == ("reference", True, 0.5)
    assert not mr.losses.SHAKE().needs_labels
    with pytest.raises(ValueError, match=r"variant must be one of \['paper', 'reference'\]"):
        mr.losses.SHAKE(variant="code")
    with pytest.raises(ValueError, match="mutual_weight of SHAKE must be a number that is not neg"):
        mr.losses.SHAKE(mutual_weight=-1.0)


def test_sides_that_do_not_fit_are_refused():
    logits = np.ones((2, 3))
    with pytest.raises(ValueError, match="adapter='shadow_head' makes them"):
        mr.losses.SHAKE().call(logits, logits)
    with pytest.raises(ValueError, match=r"equal shape. Received: .* student of shape \(2, 4\)"):
        mr.losses.SHAKE().call(logits, [logits, np.ones((2, 4))])
    with pytest.raises(ValueError, match="equal shape"):
        mr.losses.SHAKE().call(logits[None], [logits[None], logits[None]])


# One step of mr.Distiller against one written in plain TensorFlow, with no code of ours.


def net(width, name):
    layers = keras.layers
    inputs = keras.Input((8, 8, 2))
    first = layers.Conv2D(3, 3, padding="same", activation="relu", name="stage1")(inputs)
    second = layers.Conv2D(width, 3, 2, padding="same", activation="relu", name="stage2")(first)
    embedding = layers.GlobalAveragePooling2D(name="embedding")(second)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(embedding), name=name)


def parts(model):
    """Returns a function from inputs to (first maps, second maps, embedding, logits)."""
    taps = [model.get_layer(name).output for name in ("stage1", "stage2", "embedding", "logits")]
    return keras.Model(model.input, taps)


def unit(maps, weights, stride):
    """Convolution, BatchNorm in training and ReLU."""
    kernel, gamma, beta = weights
    maps = tf.nn.conv2d(maps, kernel, stride, "SAME")
    mean, variance = tf.nn.moments(maps, [0, 1, 2])
    return tf.nn.relu(tf.nn.batch_normalization(maps, mean, variance, beta, gamma, 1e-5))


def shadow_by_hand(variant_of_head, seen, weights, classifier):
    first, second, embedding, _ = seen
    if variant_of_head == "embedding":
        return tf.linalg.matmul(embedding, weights[0]) + weights[1]
    fused = unit(first, weights[0:3], 2) + unit(second, weights[3:6], 1)
    pooled = tf.reduce_mean(unit(fused, weights[6:9], 1), [1, 2])
    return tf.linalg.matmul(pooled, classifier[0]) + classifier[1]


def kl(target, prediction, temperature):
    p = tf.nn.softmax(tf.stop_gradient(target) / temperature)
    cross = tf.nn.softmax_cross_entropy_with_logits(p, prediction / temperature)
    entropy = tf.nn.softmax_cross_entropy_with_logits(p, tf.stop_gradient(target) / temperature)
    return temperature**2 * tf.reduce_mean(cross - entropy)


def bar(logits):
    mean, variance = tf.nn.moments(logits, [-1], keepdims=True)
    return 3.1415 * (logits - mean) / tf.sqrt(variance + 1e-7)


def loss_by_hand(variant, shadow, teacher, student):
    ce = tf.nn.sparse_softmax_cross_entropy_with_logits
    total = tf.reduce_mean(ce(LABELS, student))
    if variant == "reference":
        shadow, teacher, student = map(bar, (shadow, teacher, student))
        total += tf.reduce_mean(ce(LABELS, shadow)) + tf.reduce_mean((shadow - teacher) ** 2)
    else:
        total += kl(teacher, shadow, 4.0)
    return total + kl(shadow, student, 4.0) + kl(student, shadow, 4.0)


@pytest.mark.parametrize("head", ["embedding", "maps"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_the_distiller_equals_one_by_hand(variant, head, random):
    images = random.normal(size=(BATCH, 8, 8, 2)).astype("float32")
    student, teacher = net(4, "student"), net(6, "teacher")
    taps = {"embedding": ["embedding", "logits"], "maps": ["stage1", "stage2", "logits"]}[head]
    knowledge = mr.Feature(mr.losses.SHAKE(variant=variant), student="logits", teacher=taps)
    distiller = mr.Distiller(student=student, teacher=teacher, knowledge=[knowledge])
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), cross_entropy)

    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    run_student, run_teacher = parts(twin), parts(teacher)
    weights = [tf.Variable(w.numpy()) for w in knowledge.adapter.trainable_variables]
    classifier = [w.numpy() for w in teacher.get_layer("logits").weights]
    frozen = [w.numpy() for w in teacher.weights]
    if head == "embedding":
        for own, theirs in zip(weights, classifier, strict=True):
            np.testing.assert_array_equal(own, theirs)
        weights[0].assign_add(0.3 * tf.ones_like(weights[0]))
        knowledge.adapter.head.kernel.assign(weights[0])

    @tf.function
    def step():
        own = [variable.value for variable in twin.trainable_variables] + weights
        with tf.GradientTape() as tape:
            logits = run_student(images, training=True)[-1]
            seen = run_teacher(images, training=False)
            shadow = shadow_by_hand(head, seen, weights, classifier)
            total = loss_by_hand(variant, shadow, seen[-1], logits)
        for variable, slope in zip(own, tape.gradient(total, own), strict=True):
            variable.assign_sub(0.1 * slope)
        return total

    before = [w.numpy() for w in weights]
    expected = float(step())
    logs = distiller.train_on_batch(images, LABELS, return_dict=True)
    assert_close(logs["loss"], expected, rtol=1e-6)
    for ours, theirs in zip(student.trainable_variables, twin.trainable_variables, strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-6)
    for ours, theirs in zip(knowledge.adapter.trainable_variables, weights, strict=True):
        assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert any(np.abs(w - b).max() > 1e-4 for w, b in zip(weights, before, strict=True))
    for now, then in zip(teacher.weights, frozen, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("taps", [["embedding", "logits"], ["stage1", "stage2", "logits"]])
def test_a_saved_distiller_goes_on_with_its_shadow(taps, random, tmp_path):
    images = random.normal(size=(BATCH, 8, 8, 2)).astype("float32")
    knowledge = mr.Feature(mr.losses.SHAKE(variant="reference"), student="logits", teacher=taps)
    distiller = mr.Distiller(
        student=net(4, "student"), teacher=net(6, "teacher"), knowledge=[knowledge]
    )
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    distiller.train_on_batch(images, LABELS)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    for one in (distiller, loaded):
        one.train_on_batch(images, LABELS)
    for ours, theirs in zip(distiller.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
