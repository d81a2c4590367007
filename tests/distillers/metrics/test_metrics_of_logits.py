"""Tests of compiled metrics of logits, against NumPy and against Keras on probabilities."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.models.evaluated import (
    BINARY,
    ONE_HOT,
    SPARSE,
    dense_net,
    distilled,
    evaluated,
    logits_of,
    sigmoid,
    softmax,
    yes_or_no,
)

pytestmark = pytest.mark.usefixtures("eagerly")

L, M = keras.layers, keras.metrics


def map_net(units):
    return keras.Sequential([keras.Input((3, 3, 4)), L.Conv2D(units, 1)])


@pytest.fixture
def x(random):
    return random.normal(size=(24, 4)).astype("float32")


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ("(batch,)", "accuracy"),
        ("(batch, 1)", "acc"),
        ("5 labels", "Accuracy"),
        ("5 labels", "acc"),
        ("map", "accuracy"),
        ("hinge", "Accuracy"),
    ],
)
def test_accuracy_counts_logits_above_zero(name, labels, random, x):
    units = 5 if labels == "5 labels" else 1
    y = yes_or_no(random, *((24, units) if labels != "(batch,)" else (24,)))
    student, loss = dense_net(units), BINARY
    if labels == "map":
        student, x = map_net(1), random.normal(size=(24, 3, 3, 4)).astype("float32")
        y = yes_or_no(random, 24, 3, 3, 1)
    elif labels == "hinge":
        y, loss = 2 * y - 1, "hinge"
    result = evaluated(distilled(student, loss, [name]), x, y)
    z = logits_of(student, x)
    right = ((z > 0) == (y.reshape(z.shape) > 0)).mean()
    assert result[name] == pytest.approx(right, abs=1e-6)


PROBABILITY_METRICS = {
    "auc": lambda: M.AUC(name="m"),
    "precision": lambda: M.Precision(name="m"),
    "precision above .7": lambda: M.Precision(0.7, name="m"),
    "recall": lambda: M.Recall(name="m"),
    "true positives": lambda: M.TruePositives(name="m"),
    "false negatives": lambda: M.FalseNegatives(name="m"),
    "sensitivity": lambda: M.SensitivityAtSpecificity(0.5, name="m"),
    "recall at precision": lambda: M.RecallAtPrecision(0.5, name="m"),
    "binary accuracy": lambda: M.BinaryAccuracy(name="m"),
    "binary IoU": lambda: M.BinaryIoU(name="m"),
    "F1": lambda: M.F1Score(threshold=0.6, average="micro", name="m"),
    "cross-entropy": lambda: M.BinaryCrossentropy(name="m"),
    "wrapped": lambda: M.MeanMetricWrapper(M.binary_accuracy, name="m"),
}


@pytest.mark.parametrize("units", [1, 5])
def test_metric_objects_of_labels_are_given_sigmoids(units, random, x):
    y, student = yes_or_no(random, 24, units), dense_net(units)
    weight = random.uniform(0.5, 2.0, 24)
    metrics = {name: build() for name, build in PROBABILITY_METRICS.items()}
    for name, metric in metrics.items():
        metric.name = name.replace(" ", "_")
    distiller = distilled(student, BINARY, list(metrics.values()))
    result = evaluated(distiller, x, y)
    z = logits_of(student, x)
    for name, build in PROBABILITY_METRICS.items():
        alone = build()
        alone.update_state(y, sigmoid(z).astype("float32"))
        assert result[name.replace(" ", "_")] == pytest.approx(float(alone.result()), abs=1e-5), (
            name
        )
    predicted, positive = z > 0, y > 0.5
    assert result["precision"] == pytest.approx(positive[predicted].mean(), abs=1e-6)
    assert result["recall"] == pytest.approx(predicted[positive].mean(), abs=1e-6)
    weighted = distilled(dense_net(units), None, None)
    weighted.students["student"].set_weights(student.get_weights())
    weighted.compile("sgd", BINARY, weighted_metrics=[M.Precision(name="precision")])
    result = evaluated(weighted, x, y, sample_weight=weight)
    of_each = np.broadcast_to(weight[:, None], y.shape)[predicted]
    expected = (of_each * positive[predicted]).sum() / of_each.sum()
    assert result["precision"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "metric",
    [
        lambda: M.AUC(from_logits=True, name="m"),
        lambda: M.BinaryAccuracy(threshold=0, name="m"),
        lambda: M.Precision(thresholds=0, name="m"),
        lambda: M.BinaryCrossentropy(from_logits=True, name="m"),
        lambda: M.MeanMetricWrapper(M.binary_accuracy, threshold=0, name="m"),
        lambda: M.CategoricalHinge(name="m"),
    ],
)
def test_metric_objects_that_are_set_to_logits_get_them(metric, random, x):
    y, student = yes_or_no(random, 24, 5), dense_net(5)
    result = evaluated(distilled(student, BINARY, [metric()]), x, y)
    alone = metric()
    alone.update_state(y, logits_of(student, x).astype("float32"))
    assert result["m"] == pytest.approx(float(alone.result()), abs=1e-5)


class Own(M.Precision):
    """A metric that takes logits by an `update_state` of its own."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, keras.ops.sigmoid(y_pred), sample_weight)


def above_one(y_true, y_pred):
    return keras.ops.mean(keras.ops.cast(y_pred > 1.0, "float32"), axis=-1)


def test_metrics_of_ones_own_get_logits(random, x):
    y, student = yes_or_no(random, 24, 5), dense_net(5)
    result = evaluated(distilled(student, BINARY, [Own(name="own"), above_one]), x, y)
    z = logits_of(student, x)
    assert result["own"] == pytest.approx((y > 0.5)[z > 0].mean(), abs=1e-6)
    assert result["above_one"] == pytest.approx((z > 1).mean(), abs=1e-6)


@pytest.mark.parametrize("name", ["auc", "AUC", "precision", "binary_accuracy", "bce", "f1_score"])
def test_names_are_right_for_logits_under_their_own_name(name, random, x):
    y, student = yes_or_no(random, 24, 5), dense_net(5)
    result = evaluated(distilled(student, BINARY, [name]), x, y)
    z = logits_of(student, x)
    alone = M.F1Score(threshold=0.5) if name == "f1_score" else M.get(name)
    alone.update_state(y, sigmoid(z).astype("float32"))
    np.testing.assert_allclose(result[name], alone.result(), atol=1e-5)


def test_classes_keep_their_accuracy_and_get_a_softmax(random, x):
    indices = random.integers(0, 3, 24)
    y = np.eye(3, dtype="float32")[indices]
    student = dense_net(3)
    metrics = [
        "accuracy",
        M.AUC(multi_label=True, name="auc"),
        M.CategoricalCrossentropy(),
        "kl_divergence",
    ]
    result = evaluated(distilled(student, ONE_HOT, metrics, "kd"), x, y)
    z = logits_of(student, x)
    assert result["accuracy"] == pytest.approx((z.argmax(1) == indices).mean())
    auc = M.AUC(multi_label=True)
    auc.update_state(y, softmax(z).astype("float32"))
    assert result["auc"] == pytest.approx(float(auc.result()), abs=1e-5)
    expected = -np.log(softmax(z)[np.arange(24), indices]).mean()
    assert result["categorical_crossentropy"] == pytest.approx(expected, abs=1e-5)
    assert result["kl_divergence"] == pytest.approx(expected, abs=1e-5)
    sparse = [M.SparseCategoricalCrossentropy(name="m"), "accuracy"]
    result = evaluated(distilled(student, SPARSE, sparse, "kd"), x, indices)
    assert result["m"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["AUC", "Precision", "CategoricalCrossentropy"])
@pytest.mark.parametrize("form", [np.ravel, lambda y: y[:, None]])
def test_metrics_that_need_one_hot_labels_say_so(name, form, random, x):
    classes = random.integers(0, 3, 24)
    distiller = distilled(dense_net(3), SPARSE, [getattr(M, name)()])
    with pytest.raises(ValueError, match=r"labels must be one-hot: .*ops.one_hot.* Received"):
        evaluated(distiller, x, form(classes))
    one_hot = np.eye(3)[classes].astype("float32")
    distiller = distilled(distiller.student, ONE_HOT, [getattr(M, name)(name="of_ours")])
    by_keras = getattr(M, name)()
    by_keras.update_state(one_hot, softmax(logits_of(distiller.student, x)).astype("float32"))
    found = evaluated(distiller, x, one_hot)["of_ours"]
    assert found == pytest.approx(float(by_keras.result()), rel=1e-5)


def test_students_that_give_probabilities_keep_the_metrics_of_keras(random, x):
    y, student = yes_or_no(random, 24, 5), dense_net(5, tf.nn.sigmoid)
    metrics = ["accuracy", M.AUC(name="auc"), M.Precision(name="precision")]
    result = evaluated(distilled(student, "binary_crossentropy", metrics), x, y)
    p = logits_of(student, x)
    auc = M.AUC()
    auc.update_state(y, p)
    assert result["auc"] == pytest.approx(float(auc.result()), abs=1e-5)
    assert result["accuracy"] == pytest.approx(((p > 0.5) == (y > 0.5)).mean(), abs=1e-6)
    assert result["precision"] == pytest.approx((y > 0.5)[p > 0.5].mean(), abs=1e-6)


def test_positions_that_a_mask_leaves_out_do_not_count(random):
    inputs = keras.Input((6,), dtype="int32")
    outputs = L.Dense(1)(L.Embedding(9, 4, mask_zero=True)(inputs))
    student = keras.Model(inputs, outputs)
    tokens = random.integers(0, 3, (24, 6))
    y = yes_or_no(random, 24, 6, 1)
    metrics = ["accuracy", M.BinaryAccuracy(name="object")]
    result = evaluated(distilled(student, BINARY, metrics), tokens, y)
    right = ((logits_of(student, tokens) > 0) == (y > 0.5))[..., 0]
    expected = right[tokens > 0].mean()
    assert result["accuracy"] == pytest.approx(expected, abs=1e-2)
    assert result["object"] == pytest.approx(result["accuracy"], abs=1e-6)


@pytest.mark.graph
def test_each_output_has_metrics_of_its_kind(random, x):
    inputs = keras.Input((4,))

    def net():
        return keras.Model(inputs, {"kind": L.Dense(3)(inputs), "is_new": L.Dense(1)(inputs)})

    taught = [mr.Response("kd", at="kind"), mr.Response("logit_mse", at="is_new")]
    distiller = mr.Distiller(student=net(), teacher=net(), knowledge=taught)
    metrics = {"kind": ["accuracy"], "is_new": ["accuracy", M.AUC(name="auc")]}
    distiller.compile("sgd", {"kind": SPARSE, "is_new": BINARY}, metrics=metrics)
    y = {"kind": random.integers(0, 3, 24), "is_new": yes_or_no(random, 24, 1)}
    result = evaluated(distiller, x, y)
    z = distiller.student.predict(x, verbose=0)
    right = (z["kind"].argmax(1) == y["kind"]).mean()
    assert result["kind_accuracy"] == pytest.approx(right)
    right = ((z["is_new"] > 0) == (y["is_new"] > 0.5)).mean()
    assert result["is_new_accuracy"] == pytest.approx(right)
    auc = M.AUC(from_logits=True)
    auc.update_state(y["is_new"], z["is_new"])
    assert result["is_new_auc"] == pytest.approx(float(auc.result()), abs=1e-5)


@pytest.fixture
def peers():
    students = {name: dense_net(1) for name in "ab"}
    return mr.PeerDistiller(students, aggregator="mutual", online_loss="logit_mse")


def test_the_best_student_is_chosen_by_the_accuracy_of_logits(peers, random, x):
    """With a threshold of .5, the worse student would seem the better one."""
    y = (x[:, :1] > 0).astype("float32")
    good, bad = (peers.students[name].layers[-1] for name in "ab")
    kernel = np.array([[0.01], [0], [0], [0]], "float32")
    good.set_weights([kernel, np.zeros(1)])  # right on all, and nowhere above .5
    bad.set_weights([np.roll(kernel, 1) * 1000, np.zeros(1)])
    peers.compile(keras.optimizers.SGD(0.0), BINARY, metrics=["accuracy", M.AUC(name="auc")])
    monitor = mr.callbacks.PeerMonitor(x)
    logs = peers.fit(x, y, validation_data=(x, y), callbacks=[monitor], verbose=0).history
    z = {name: logits_of(student, x) for name, student in peers.students.items()}
    assert logs["val_a/accuracy"] == [1.0]
    assert logs["val_b/accuracy"][0] == pytest.approx(((z["b"] > 0) == (y > 0)).mean())
    auc = M.AUC(from_logits=True)
    auc.update_state(y, z["b"].astype("float32"))
    assert logs["val_b/auc"][0] == pytest.approx(float(auc.result()), abs=1e-6)
    assert peers.best_student_name == "a"
    assert logs["agreement"][0] == pytest.approx(((z["a"] > 0) == (z["b"] > 0)).mean())
    distance = np.sqrt(2) * np.abs(sigmoid(z["a"]) - sigmoid(z["b"])).mean()
    assert logs["diversity"][0] == pytest.approx(distance, abs=1e-5)


def test_a_monitor_of_labels_and_their_teachers(random, x):
    y, student, teachers = (
        yes_or_no(random, 24, 5),
        dense_net(5),
        [dense_net(5, name=n) for n in "ab"],
    )
    for given in (teachers[0], teachers):
        distiller = mr.Distiller(
            student=student, teacher=given, knowledge=[mr.Response("logit_mse")]
        )
        distiller.compile(keras.optimizers.SGD(0.0), BINARY)
        monitor = mr.callbacks.PeerMonitor(x, batch_size=10)
        logs = distiller.fit(x, y, callbacks=[monitor], verbose=0).history
        several = given if isinstance(given, list) else [given]
        yes = np.mean([sigmoid(logits_of(one, x)) for one in several], axis=0) > 0.5
        expected = ((logits_of(student, x) > 0) == yes).mean()
        assert logs["teacher_agreement"][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.graph
def test_an_ensemble_of_labels(random, x):
    peers = mr.PeerDistiller({name: dense_net(5) for name in "ab"}, online_loss="logit_mse")
    peers.compile("sgd", BINARY, metrics=["accuracy", M.Precision(name="precision")])
    y = yes_or_no(random, 24, 5)
    result = evaluated(peers, x, y)
    z = {name: logits_of(student, x) for name, student in peers.students.items()}
    z["ensemble"] = (z["a"] + z["b"]) / 2
    for name, own in z.items():
        assert result[f"{name}/accuracy"] == pytest.approx(
            ((own > 0) == (y > 0.5)).mean(), abs=1e-6
        )
        assert result[f"{name}/precision"] == pytest.approx((y > 0.5)[own > 0].mean(), abs=1e-6)


def test_files_bring_the_metrics_back(random, x, tmp_path):
    y = yes_or_no(random, 24, 5)
    distiller = distilled(dense_net(5), BINARY, ["accuracy", M.AUC(name="auc"), "precision"])
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    assert evaluated(again, x, y) == pytest.approx(evaluated(distiller, x, y), abs=1e-6)


@pytest.mark.graph
@pytest.mark.parametrize("compiled_inside", [True, False])
def test_two_replicas_count_as_one(compiled_inside, two_replicas, random, x):
    """Variables of metrics are made where the distiller runs."""
    y = yes_or_no(random, 24, 1)
    with two_replicas.scope():
        distiller = distilled(dense_net(1), BINARY, None)
        if compiled_inside:
            distiller.compile("sgd", BINARY, metrics=["accuracy", "auc"])
    if not compiled_inside:
        distiller.compile("sgd", BINARY, metrics=["accuracy", "auc"])
    result = distiller.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    z = keras.ops.convert_to_numpy(distiller.student(x))
    assert result["accuracy"] == pytest.approx(((z > 0) == (y > 0.5)).mean(), abs=1e-6)
    auc = M.AUC(from_logits=True)
    auc.update_state(y, z)
    assert result["auc"] == pytest.approx(float(auc.result()), abs=1e-5)


@pytest.mark.parametrize("metric", ["accuracy", "auc", "f1_score"])
def test_callbacks_know_that_more_is_better(metric, random, x):
    y, monitor = yes_or_no(random, 24, 1), f"val_{metric}"
    distiller = distilled(dense_net(1), BINARY, [metric])
    stopping = keras.callbacks.EarlyStopping(monitor, patience=9)
    given = {"validation_data": (x, y), "callbacks": [stopping], "epochs": 2, "verbose": 0}
    logs = distiller.fit(x, y, **given).history
    assert np.all(stopping.best == np.max(logs[monitor]))
    result = evaluated(distiller, x, y)  # each epoch and evaluation begins anew
    np.testing.assert_allclose(result[metric], logs[monitor][-1], atol=1e-6)
