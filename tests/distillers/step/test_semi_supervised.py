"""Tests of labelled and unlabelled samples in one batch, against NumPy in float64."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 4)).astype("float32")
CLASSES = np.arange(8) % 3
LABELS = np.where(np.arange(8) < 5, CLASSES, -1)
TEACHER = RANDOM.normal(size=(8, 3)).astype("float32")
RATE, T = 0.5, 2.0


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def log_loss(z, labels):
    return -np.log(softmax(z))[np.arange(len(z)), labels]


def student(name=None):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name=name)


@pytest.fixture
def compiled():
    keras.utils.set_random_seed(1)
    outputs = mr.data.TeacherOutputs(logits=TEACHER)
    kd = mr.Response(mr.losses.KD(temperature=T), weight=0.7)
    distiller = mr.Distiller(student=student(), teacher=outputs, knowledge=[kd])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    iou = keras.metrics.MeanIoU(3, ignore_class=-1, sparse_y_pred=False, name="iou")
    metrics = ["accuracy", keras.metrics.sparse_categorical_crossentropy, iou]
    weighted = [keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    distiller.compile(keras.optimizers.SGD(RATE), loss, metrics, weighted)
    return distiller, outputs.attach(X)


@pytest.mark.graph
def test_the_loss_counts_labelled_samples_and_knowledge_all(compiled):
    distiller, x = compiled
    weights, bias = (w.numpy().astype("float64") for w in distiller.student.weights)
    z = X @ weights + bias
    known = LABELS >= 0
    supervised = np.where(known[:, None], softmax(z) - np.eye(3)[LABELS], 0.0) / known.sum()
    p, q = softmax(TEACHER.astype("float64") / T), softmax(z / T)
    gradient = supervised + 0.7 * T * (q - p) / len(X)
    logs = distiller.fit(x, LABELS, batch_size=8, shuffle=False, verbose=0).history
    expected = [weights - RATE * X.T @ gradient, bias - RATE * gradient.sum(axis=0)]
    for variable, value in zip(distiller.student.weights, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-4, atol=1e-5)
    ce = log_loss(z[known], LABELS[known]).mean()
    kd = T**2 * (p * np.log(p / q)).sum(axis=-1).mean()
    np.testing.assert_allclose([logs["ce"][0], logs["kd"][0]], [ce, kd], rtol=1e-5)
    np.testing.assert_allclose(logs["loss"][0], ce + 0.7 * kd, rtol=1e-5)


@pytest.mark.parametrize("trains", [True, False], ids=["fit", "evaluate"])
@pytest.mark.parametrize("column", [False, True])
def test_metrics_leave_out_samples_without_a_label(trains, column, compiled):
    distiller, x = compiled
    z = X @ distiller.student.weights[0].numpy()
    known, weight = LABELS >= 0, RANDOM.uniform(size=8).astype("float32")
    labels = LABELS[:, None] if column else LABELS
    run = distiller.fit if trains else distiller.evaluate
    more = {} if trains else {"return_dict": True}
    logs = run(x, labels, batch_size=8, sample_weight=weight, verbose=0, **more)
    logs = {name: value[0] for name, value in logs.history.items()} if trains else logs
    right = z.argmax(axis=1) == LABELS
    np.testing.assert_allclose(logs["accuracy"], right[known].mean(), rtol=1e-6)
    entropy = log_loss(z[known].astype("float64"), LABELS[known]).mean()
    np.testing.assert_allclose(logs["sparse_categorical_crossentropy"], entropy, rtol=1e-4)
    top2 = (np.argsort(-z, axis=1)[:, :2] == LABELS[:, None]).any(axis=1)
    expected = (top2 * weight)[known].sum() / weight[known].sum()
    np.testing.assert_allclose(logs["top2"], expected, rtol=1e-5)
    matrix = np.zeros((3, 3))
    np.add.at(matrix, (LABELS[known], z.argmax(axis=1)[known]), 1)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix)
    there = union > 0
    np.testing.assert_allclose(logs["iou"], (np.diag(matrix) / union.clip(1))[there].mean(), 1e-5)


def test_a_batch_without_labels_trains_on_knowledge_alone(compiled):
    distiller, x = compiled
    before = distiller.student.weights[0].numpy()
    logs = distiller.fit(x, np.full(8, -1), batch_size=8, verbose=0).history
    assert logs["ce"][0] == 0 and logs["kd"][0] > 0 and np.isfinite(logs["loss"][0])
    assert logs["accuracy"][0] == 0
    assert np.isfinite(distiller.student.weights[0]).all()
    assert not np.array_equal(before, distiller.student.weights[0].numpy())


def test_peers_have_the_same_metrics_and_plain_losses_are_told():
    students = {name: student(name) for name in ("a", "b")}
    peers = mr.PeerDistiller(students=students, aggregator="mutual")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    peers.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
    logs = peers.fit(X, LABELS, batch_size=8, verbose=0).history
    known = LABELS >= 0
    for name, one in students.items():
        right = one(X).numpy().argmax(axis=1) == LABELS
        np.testing.assert_allclose(logs[f"{name}/accuracy"][0], right[known].mean(), rtol=1e-6)
    peers.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"without a label have -1 where ignore_class=-1"):
        peers.fit(X, LABELS, verbose=0)
