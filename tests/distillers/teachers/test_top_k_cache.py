"""Distillers that learn from the largest logits of a cache, against NumPy and the whole logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, logsumexp

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

SAMPLES, TOKENS, CLASSES, K = 8, 5, 12, 4
LOSSES = ["kd", "gkd", "dkd"]


def language_model(width, name, scale=1.0, seed=3):
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(20, width, mask_zero=True)(tokens)
    model = keras.Model(tokens, keras.layers.Dense(CLASSES)(hidden), name=name)
    model.set_weights([scale * weight for weight in model.get_weights()])
    return model


@pytest.fixture
def arrays(random):
    tokens = random.integers(20, size=(SAMPLES, TOKENS))
    tokens[:, -1] = 0  # padding
    labels = random.integers(CLASSES, size=(SAMPLES, TOKENS))
    return tokens, labels, random.random((SAMPLES, TOKENS)).astype("float32")


@pytest.fixture
def train(arrays):
    return mr.data.with_index(tf.data.Dataset.from_tensor_slices(arrays)).batch(4)


@pytest.fixture
def teacher():
    return language_model(6, "teacher", scale=30.0)


def history(teacher, data, knowledge, **arguments):
    distiller = mr.Distiller(
        student=language_model(4, "student", scale=20.0, seed=5),
        teacher=teacher,
        knowledge=knowledge,
        **arguments,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss)
    logs = distiller.fit(data, shuffle=False, verbose=0).history
    return logs, distiller


@pytest.mark.slow
@pytest.mark.graph
def test_all_but_one_logit_teach_what_all_do(teacher, train, tmp_path):
    """The rest is then the only class that is left: with any temperature and any loss."""
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=CLASSES - 1)
    cache.fill(train)
    live, by_live = history(teacher, train, LOSSES)
    cached, by_cache = history(cache, cache.attach(train), LOSSES)
    assert set(cached) == {*LOSSES, "ce", "loss"}
    for name, values in live.items():
        np.testing.assert_allclose(cached[name], values, rtol=1e-4)
    pairs = zip(by_cache.student.get_weights(), by_live.student.get_weights(), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def divergence(teacher, student, rest, temperature=1.0):
    """T² KL of the k largest classes and perhaps of the rest, token by token, in float64."""
    order = np.argsort(-teacher, axis=-1)
    sides = []
    for logits in (np.float64(teacher), np.float64(student)):
        ordered = np.take_along_axis(logits, order, axis=-1)
        few = ordered[..., :K]
        if rest == "one":
            others = logsumexp(ordered[..., K:], axis=-1, keepdims=True)
            few = np.concatenate([few, others], axis=-1)
        sides.append(log_softmax(few / temperature, axis=-1))
    return temperature**2 * (np.exp(sides[0]) * (sides[0] - sides[1])).sum(axis=-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("rest", ["one", "renormalized"])
def test_values_and_gradients_equal_numpy(
    rest, temperature, teacher, train, arrays, tmp_path, finite_differences
):
    """With padding that is left out, and weights of the tokens."""
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=K, rest=rest)
    cache.fill(train)
    student = language_model(4, "student", scale=20.0, seed=5)
    tokens, _, weights = arrays
    knowledge = [mr.Response(mr.losses.KD(temperature=temperature))]
    distiller = mr.Distiller(
        student=student, teacher=cache, knowledge=knowledge, supervised_weight=0.0
    )
    distiller.compile(
        keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    exact = np.asarray(teacher(tokens))[:4]
    counts = (tokens != 0)[:4] * weights[:4] * 20 / (tokens[:4] != 0).sum()

    def value(logits):
        return np.mean(divergence(exact, logits, rest, temperature) * counts)

    hidden = np.asarray(student.layers[1](tokens[:4]))
    kernel, bias = student.layers[-1].get_weights()
    slopes = finite_differences(lambda w: value(hidden @ w + bias), np.float64(kernel))
    expected = value(hidden @ kernel + bias)
    logs = distiller.fit(cache.attach(train).take(1), shuffle=False, verbose=0).history
    np.testing.assert_allclose(logs["kd"], [expected], rtol=1e-4)
    moved = kernel - student.layers[-1].get_weights()[0]
    np.testing.assert_allclose(moved, slopes, atol=1e-4 * np.abs(slopes).max())


@pytest.mark.parametrize("loss", ["confidence_penalty", "teacher_free"])
def test_losses_of_the_student_alone_see_all_classes(loss, teacher, train, tmp_path):
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=K)
    cache.fill(train)
    whole, _ = history(teacher, train, ["kd", loss])
    few, _ = history(cache, cache.attach(train), ["kd", loss])
    assert few[loss] == pytest.approx(whole[loss], rel=0.05)  # KD moves the student otherwise


def test_evaluation_compares_all_classes(teacher, train, tmp_path):
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=K)
    cache.fill(train)

    def evaluated(teacher, data):
        student = language_model(4, "student", scale=20.0, seed=5)
        distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("sgd", loss, evaluate_knowledge=True)
        return distiller.evaluate(data, verbose=0, return_dict=True)

    whole = evaluated(teacher, train)
    for data in (train, cache.attach(train)):
        assert evaluated(cache, data) == pytest.approx(whole, rel=1e-4)


def test_dkd_of_labels_that_are_not_among_the_largest(teacher, train, arrays, tmp_path):
    """The labelled class is then one of the rest."""
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=K)
    cache.fill(train)
    tokens, labels, _ = (array[:4] for array in arrays)
    exact, student = np.asarray(teacher(tokens)), language_model(4, "student", 20.0, 5)(tokens)
    order = np.argsort(-exact, axis=-1)
    ordered = [np.take_along_axis(np.asarray(z), order, axis=-1) for z in (exact, student)]
    few = [
        np.concatenate([z[..., :K], logsumexp(z[..., K:], axis=-1, keepdims=True)], axis=-1)
        for z in ordered
    ]
    ranks = np.minimum(np.argmax(order == labels[..., None], axis=-1), K)
    assert {0 <= rank < K for rank in ranks.ravel()} == {True, False}
    given = {"teacher": few[0], "labels": ranks, "mask": tokens != 0}
    expected = mr.losses.DKD()(given, few[1])
    data = cache.attach(train).map(lambda x, y, w: (x, y)).take(1)
    logs, _ = history(cache, data, "dkd")
    np.testing.assert_allclose(logs["dkd"][0], expected, rtol=1e-4)


def with_hot_labels(x, y, w):
    return x, tf.one_hot(y, CLASSES), w


def test_one_hot_labels_are_refused(teacher, train, tmp_path):
    cache = mr.data.TeacherCache(tmp_path, teacher, top_k=K)
    cache.fill(train)
    student = language_model(4, "student")
    distiller = mr.Distiller(student=student, teacher=cache, knowledge="dkd")
    distiller.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"labels that are class indices: ops\.argmax\(labels"):
        distiller.fit(cache.attach(train).map(with_hot_labels), shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("knowledge", "rest", "reason"),
    [
        ("dist", "one", "compares positions with one another"),
        ("logit_mse", "one", "does not compare probabilities of classes"),
        ("ctkd", "one", "it takes those of all classes as a feature, or its adapter does"),
        (mr.losses.KD(standardize=True), "one", "standardize=True needs mean and standard dev"),
        ("dkd", "renormalized", "rest='one' is needed"),
        (mr.Feature("hint", at="dense"), "one", "it takes those of all classes as a feature"),
    ],
    ids=["dist", "logit_mse", "ctkd", "standardized", "dkd", "feature"],
)
def test_what_needs_all_logits_is_refused(knowledge, rest, reason, teacher, tmp_path):
    tokens = keras.Input((TOKENS,), dtype="int32")
    hidden = keras.layers.Embedding(20, 4)(tokens)
    model = keras.Model(tokens, keras.layers.Dense(CLASSES, name="dense")(hidden), name="teacher")
    cache = mr.data.TeacherCache(tmp_path, model, top_k=K, rest=rest)
    student = keras.models.clone_model(model)
    with pytest.raises(ValueError, match=rf"cannot learn from the 4 largest logits.*{reason}"):
        mr.Distiller(student=student, teacher=cache, knowledge=[knowledge])
