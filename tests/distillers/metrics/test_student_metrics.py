"""Tests of compiled metrics of several students, and that nothing handed over is only tracked."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.distillers.metrics import student_metrics
from modreduce_keras.held import Held

pytestmark = pytest.mark.usefixtures("eagerly")

L = keras.layers


def dense_net(name=None, units=3):
    return keras.Sequential([keras.Input((4,)), L.Dense(units, name="logits")], name=name)


@pytest.fixture
def data(random):
    labels = random.integers(0, 3, 12)
    return random.normal(size=(12, 4)).astype("float32"), keras.utils.to_categorical(labels, 3)


@pytest.fixture
def peers():
    return mr.PeerDistiller({"a": dense_net(), "b": dense_net()})


@pytest.fixture
def loss():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable(package="tests")
class Share(keras.metrics.Metric):
    """The share of samples whose labelled logit is above a bound, a metric of the user's own."""

    def __init__(self, bound=0.0, name="share", **arguments):
        super().__init__(name=name, **arguments)
        self.bound = bound
        self.hits = self.add_variable((), "zeros", name="hits")
        self.all = self.add_variable((), "zeros", name="all")

    def update_state(self, y_true, y_pred, sample_weight=None):
        hits = keras.ops.sum(y_true * keras.ops.cast(y_pred > self.bound, "float32"), axis=-1)
        weight = keras.ops.ones_like(hits) if sample_weight is None else sample_weight
        self.hits.assign_add(keras.ops.sum(weight * hits))
        self.all.assign_add(keras.ops.sum(weight))

    def result(self):
        return self.hits / self.all

    def get_config(self):
        return {**super().get_config(), "bound": self.bound}


def macro_f1(labels, logits):
    predicted = np.eye(3)[logits.argmax(-1)]
    hits = (labels * predicted).sum(0)
    return np.mean(2 * hits / np.maximum(labels.sum(0) + predicted.sum(0), 1e-7))


def share(labels, logits, bound, weight=1.0):
    weight = np.broadcast_to(weight, len(labels))
    return (weight * (labels * (logits > bound)).sum(-1)).sum() / weight.sum()


@keras.saving.register_keras_serializable(package="tests")
def mean_norm(y_true, y_pred):
    return keras.ops.norm(y_pred, axis=-1)


METRICS = [
    lambda: keras.metrics.F1Score(average="macro", name="f1"),
    lambda: keras.metrics.TopKCategoricalAccuracy(2, name="top2"),
    lambda: keras.metrics.MeanMetricWrapper(mean_norm, name="norm"),
    lambda: Share(0.3),
]


def expected(labels, logits):
    ranks = np.argsort(-logits, axis=1)
    return {
        "f1": macro_f1(labels, logits),
        "top2": np.mean(np.take_along_axis(labels, ranks[:, :2], 1).any(1)),
        "norm": np.linalg.norm(logits, axis=-1).mean(),
        "share": share(labels, logits, 0.3),
    }


@pytest.mark.parametrize("form", ["list", "dict", "one list in a dict"])
def test_metric_objects_of_each_student(form, peers, loss, data):
    x, y = data
    one = [metric() for metric in METRICS]
    own = {name: [metric() for metric in METRICS] for name in ("a", "b", "ensemble")}
    given = {"list": one, "dict": own, "one list in a dict": dict.fromkeys(own, one)}[form]
    peers.compile("sgd", loss, metrics=given)
    logs = peers.fit(x, y, validation_data=data, verbose=0).history
    results = peers.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
    logits = {name: student.predict(x, verbose=0) for name, student in peers.students.items()}
    logits["ensemble"] = (logits["a"] + logits["b"]) / 2
    names = {"loss", "a/online", "b/online"}
    for student, values in logits.items():
        for metric, value in expected(y, values).items():
            assert results[f"{student}/{metric}"] == pytest.approx(value, abs=1e-6)
            assert logs[f"val_{student}/{metric}"][-1] == pytest.approx(value, abs=1e-6)
        names |= {f"{student}/{metric}" for metric in ("ce", *expected(y, values))}
    assert {name for name in logs if not name.startswith("val_")} == names
    assert set(results) == names - {"a/online", "b/online"}


@pytest.mark.graph
def test_metric_objects_of_one_student(loss, data):
    x, y = data
    distiller = mr.Distiller(
        student=dense_net(), teacher=dense_net(), knowledge=[mr.Response("kd")]
    )
    distiller.compile("sgd", loss, metrics=[metric() for metric in METRICS])
    results = distiller.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
    values = expected(y, distiller.student.predict(x, verbose=0))
    assert set(results) == {"loss", "ce", *values}
    for name, value in values.items():
        assert results[name] == pytest.approx(value, abs=1e-6)
    assert len({id(metric) for metric in distiller.metrics}) == len(distiller.metrics)


def test_weighted_metric_objects(peers, loss, data, random):
    x, y = data
    weight = random.uniform(size=12)
    peers.compile("sgd", loss, metrics=[Share()], weighted_metrics=[Share(0.3, "weighted")])
    results = peers.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    logits = peers.students["b"].predict(x, verbose=0)
    assert results["b/share"] == pytest.approx(share(y, logits, 0.0), abs=1e-6)
    assert results["b/weighted"] == pytest.approx(share(y, logits, 0.3, weight), abs=1e-6)


@pytest.mark.graph
def test_compiling_again_forgets_metric_objects(peers, loss, data):
    for distiller in (
        peers,
        mr.Distiller(student=dense_net(), teacher=dense_net(), knowledge=[mr.Response("kd")]),
    ):
        distiller.compile("sgd", loss, metrics=[METRICS[0](), METRICS[1]()])
        distiller.train_on_batch(*data)
        distiller.compile("sgd", loss, metrics=[METRICS[3]()])
        logs = distiller.fit(*data, validation_data=data, verbose=0).history
        assert not {name for name in logs if name.endswith(("f1", "top2"))}
        assert {name for name in logs if name.endswith("share")}


def test_early_stopping_on_a_metric_object(peers, loss, data):
    """A phantom of the metric would stay at 0 and stop the run after the first epochs."""
    top2 = keras.metrics.TopKCategoricalAccuracy(2, name="top2")
    peers.compile(keras.optimizers.SGD(0.05), loss, metrics=[top2])
    monitor = keras.callbacks.EarlyStopping("val_a/top2", mode="max", patience=50)
    logs = peers.fit(*data, epochs=4, validation_data=data, callbacks=[monitor], verbose=0).history
    logits = peers.students["a"].predict(data[0], verbose=0)
    assert logs["val_a/top2"][-1] == pytest.approx(expected(data[1], logits)["top2"])
    assert "val_top2" not in logs and "top2" not in logs


def test_files_bring_metric_objects_and_optimizers_back(peers, loss, data, tmp_path):
    optimizers = {"a": keras.optimizers.Adam(0.01), "b": "sgd", "aggregator": "sgd"}
    peers.compile(
        {name: one for name, one in optimizers.items() if name != "aggregator"},
        loss,
        metrics=[METRICS[0](), Share(0.3)],
        weighted_metrics={"a": [Share(0.1, "weighted")]},
    )
    peers.fit(*data, verbose=0)
    peers.save(tmp_path / "peers.keras")
    again = keras.models.load_model(tmp_path / "peers.keras")
    for distiller in (peers, again):
        distiller.fit(*data, shuffle=False, verbose=0)
    first, second = (one.evaluate(*data, verbose=0, return_dict=True) for one in (peers, again))
    assert first == pytest.approx(second, abs=1e-6)
    assert {"a/f1", "b/share", "a/weighted"} < set(second)


class Forgetful(Share):
    """It does not return its bound in `get_config`."""

    def get_config(self):
        return keras.metrics.Metric.get_config(self)


class Bare(Share):
    """Its copy cannot be made at all."""

    def __init__(self, bound, name="bare"):
        super().__init__(bound, name)

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    "metric", [Forgetful(0.3), Bare(0.3), keras.metrics.CosineSimilarity(axis=1)]
)
def test_a_metric_whose_copy_would_be_another_is_refused(metric, peers, loss, data):
    with pytest.raises(ValueError, match=r"metrics=\{STUDENT: \[\w+\(...\)\], ...\}. Received"):
        peers.compile("sgd", loss, metrics=[metric])
    peers.compile("sgd", loss, metrics={"a": [metric]})
    peers.evaluate(*data, verbose=0)


def example_metric(kind):
    """Returns a metric with as few arguments as it takes, or None."""
    for arguments in ({}, {"num_classes": 3}, {"num_classes": 3, "target_class_ids": [0]}):
        try:
            return kind(**arguments)
        except TypeError:
            continue
    return None


def test_every_metric_of_keras_is_copied():
    found = [kind for kind in vars(keras.metrics).values() if isinstance(kind, type)]
    made = [example_metric(kind) for kind in found if issubclass(kind, keras.metrics.Metric)]
    metrics = [metric for metric in made if metric is not None]
    assert len(metrics) > 35
    for metric in metrics:
        copied = student_metrics.for_each_student([metric], ["a", "b"])["a/"][0]
        assert copied is not metric
        assert copied.get_config() == metric.get_config()


@pytest.mark.parametrize(
    "value", [keras.metrics.Mean(), L.Dense(3), keras.Variable(1.0), keras.random.SeedGenerator(1)]
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": {"l": (v,)}}])
def test_what_is_held_is_not_tracked(value, wrap):
    for owner in (L.Layer(), keras.Model()):
        owner.kept = Held(wrap(value))
        assert keras.tree.flatten(owner.kept()) == [value]
        assert not owner.metrics + owner.variables + owner._layers


def test_a_layer_that_is_a_loss_is_not_trained(data):
    """A loss may be a callable of any kind; what is in it is not the distiller's."""

    class Distance(L.Dense):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.square(super().call(y_true) - y_pred), axis=-1)

    distance = Distance(3)
    distance.build((None, 3))
    distiller = mr.Distiller(
        student=dense_net(), teacher=dense_net(), knowledge=[mr.Response("kd")]
    )
    before = len(distiller.variables)
    distiller.compile("sgd", distance)
    assert len(distiller.variables) == before
    assert distiller.loss is distance


def test_a_metric_that_takes_no_labels_needs_none():
    class MeanLogit(keras.metrics.Mean):
        def update_state(self, y_true, y_pred, sample_weight=None):
            super().update_state(y_pred)

    def model():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])

    distiller = mr.Distiller(student=model(), teacher=model(), knowledge="kd")
    distiller.compile("sgd", metrics=[MeanLogit(name="mean")])
    x = np.arange(32.0).reshape(8, 4)
    expected = np.asarray(distiller.student(x)).mean()
    assert distiller.evaluate(x, verbose=0, return_dict=True)["mean"] == pytest.approx(
        expected, 1e-5
    )
