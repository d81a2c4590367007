"""`compile`: optimizers by group, metrics by student, losses of every form."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.fixture
def peers(net):
    return mr.PeerDistiller({"a": net(), "b": net()}, aggregator="weighted_average")


def moved(variables, before):
    return [bool(np.any(v.numpy() != old)) for v, old in zip(variables, before, strict=True)]


@pytest.mark.graph
@pytest.mark.parametrize("frozen", ["a", "b", "aggregator"])
def test_each_group_has_its_own_optimizer(frozen, peers, cross_entropy, images, labels):
    groups = peers.variable_groups()
    rates = {name: 0.0 if name == frozen else 0.1 for name in groups}
    peers.compile({name: keras.optimizers.SGD(rate) for name, rate in rates.items()}, cross_entropy)
    before = {name: [v.numpy().copy() for v in variables] for name, variables in groups.items()}
    peers.train_on_batch(images, labels)
    for name, variables in groups.items():
        assert any(moved(variables, before[name])) == (name != frozen), name


def test_groups_cover_every_trainable_variable_once(modreduce):
    grouped = [id(v) for variables in modreduce.variable_groups().values() for v in variables]
    assert sorted(grouped) == sorted(id(v) for v in modreduce.trainable_variables)


def test_adapters_train_with_their_student(distiller, images, labels):
    adapter = distiller.knowledge["student"][1].adapter
    before = [v.numpy().copy() for v in adapter.trainable_variables]
    distiller.train_on_batch(images, labels)
    assert any(moved(adapter.trainable_variables, before))
    own = {id(v) for v in distiller.variable_groups()["student"]}
    assert own >= {id(v) for v in adapter.trainable_variables}


def test_a_learning_rate_schedule_counts_from_the_first_step(net, teacher, images, labels):
    """An optimizer that is built too late would ignore the schedule in the first epoch."""
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.0])
    distiller = mr.Distiller(student=net(), teacher=teacher, knowledge=[mr.Response()])
    distiller.compile({"student": keras.optimizers.SGD(rates)})
    variables = distiller.trainable_variables
    distiller.train_on_batch(images, labels)
    after_one = [v.numpy().copy() for v in variables]
    distiller.train_on_batch(images, labels)
    distiller.train_on_batch(images, labels)
    after_three = [v.numpy().copy() for v in variables]
    distiller.train_on_batch(images, labels)
    assert any(moved(variables, after_one))
    assert not any(moved(variables, after_three))


def test_the_optimizer_is_built_at_compile_so_that_files_restore_it(peers, cross_entropy):
    peers.compile({"a": "adam", "b": "adam", "aggregator": "sgd"}, cross_entropy)
    assert all(optimizer.built for optimizer in (peers.optimizer, *peers.optimizer.optimizers))


@pytest.mark.parametrize(
    "optimizers", [{"a": "sgd"}, {"a": "sgd", "b": "sgd", "aggregator": "sgd", "c": "sgd"}]
)
def test_optimizers_must_fit_the_groups(optimizers, peers, cross_entropy):
    with pytest.raises(ValueError, match=r"one for each of \['a', 'aggregator', 'b'\]"):
        peers.compile(optimizers, cross_entropy)


def test_students_that_are_frozen_are_refused_by_name(peers, cross_entropy):
    peers.students["b"].trainable = False
    unfreezes = r"student 'b' has no trainable weights.*distiller.students\['b'\].trainable = True"
    with pytest.raises(ValueError, match=unfreezes):
        peers.compile("sgd", cross_entropy)
    peers.students["b"].trainable = True
    for layer in peers.students["a"].layers:
        layer.trainable = False
    with pytest.raises(
        ValueError, match=r"for layer in distiller.students\['a'\].layers: layer.tr"
    ):
        peers.compile("sgd", cross_entropy)
    for layer in peers.students["a"].layers:
        layer.trainable = True
    peers.compile("sgd", cross_entropy)


def test_groups_cannot_share_an_optimizer(peers, cross_entropy):
    shared = keras.optimizers.SGD()
    with pytest.raises(ValueError, match=r"an optimizer object of its own"):
        peers.compile({"a": shared, "b": shared, "aggregator": "sgd"}, cross_entropy)


def test_an_aggregator_without_weights_needs_no_optimizer(net, cross_entropy):
    peers = mr.PeerDistiller({"a": net(), "b": net()}, aggregator="mean")
    peers.compile({"a": "sgd", "b": "sgd"}, cross_entropy)


def test_an_aggregator_that_learns_needs_a_loss(peers):
    with pytest.raises(ValueError, match=r"'weighted_average' learns from the labels"):
        peers.compile("sgd")


def test_metrics_are_computed_for_every_student_and_the_ensemble(
    peers, cross_entropy, images, labels
):
    top2 = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top2")
    peers.compile("sgd", cross_entropy, metrics=["accuracy", top2])
    results = peers.evaluate(images, labels, batch_size=5, verbose=0, return_dict=True)
    logits = {name: s.predict(images, verbose=0) for name, s in peers.students.items()}
    logits["ensemble"] = (logits["a"] + logits["b"]) / 2
    for name, values in logits.items():
        ranks = np.argsort(-values, axis=1)
        accuracy = np.mean(ranks[:, 0] == labels)
        within_two = np.mean((ranks[:, :2] == labels[:, None]).any(axis=1))
        assert results[f"{name}/accuracy"] == pytest.approx(accuracy)
        assert results[f"{name}/top2"] == pytest.approx(within_two)


def test_metrics_by_student(peers, cross_entropy, images, labels):
    peers.compile("sgd", cross_entropy, metrics={"b": ["accuracy"], "ensemble": ["accuracy"]})
    results = peers.evaluate(images, labels, verbose=0, return_dict=True)
    assert {"b/accuracy", "ensemble/accuracy"} < set(results)
    assert "a/accuracy" not in results
    with pytest.raises(ValueError, match=r"keys among \['a', 'b', 'ensemble'\]. Received: \['c'\]"):
        peers.compile("sgd", cross_entropy, metrics={"c": ["accuracy"]})


def test_weighted_metrics_use_the_sample_weights(peers, cross_entropy, images, labels):
    peers.compile("sgd", cross_entropy, metrics=["accuracy"], weighted_metrics=["accuracy"])
    weights = (labels == 1).astype("float32")
    results = peers.evaluate(images, labels, sample_weight=weights, verbose=0, return_dict=True)
    predicted = peers.students["a"].predict(images, verbose=0).argmax(axis=1)
    assert results["a/accuracy"] == pytest.approx(np.mean(predicted == labels))
    expected = np.mean(predicted[labels == 1] == 1)
    assert results["a/weighted_accuracy"] == pytest.approx(expected)


@pytest.mark.graph
def test_compiling_again_forgets_the_old_terms(distiller, images, labels):
    distiller.train_on_batch(images, labels)
    distiller.compile("sgd")
    logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert set(logs) == {"loss", "kd", "hint", "rkd_distance", "rkd_angle"}


def test_loss_weights_are_refused(distiller, cross_entropy):
    with pytest.raises(ValueError, match=r"Terms are weighted where they are made"):
        distiller.compile("sgd", cross_entropy, loss_weights=[1.0])


@pytest.mark.parametrize("loss", [{"student": "mse"}, ["mse"]])
def test_one_loss_for_all(loss, distiller):
    with pytest.raises(ValueError, match=r"Distillers take one loss"):
        distiller.compile("sgd", loss)


def test_sums_are_refused(distiller):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    with pytest.raises(ValueError, match=r"reduction must be .* Received: reduction='sum'"):
        distiller.compile("sgd", loss)


def scalar_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


def test_a_scalar_loss_is_refused(distiller, images, labels):
    distiller.compile("sgd", scalar_loss)
    with pytest.raises(ValueError, match=r"one value per example, \(batch,\)"):
        distiller.train_on_batch(images, np.eye(3)[labels])


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), "ce"),
        (keras.losses.CategoricalFocalCrossentropy(from_logits=True), "ce"),
        ("mean_absolute_error", "mean_absolute_error"),
        (keras.losses.Huber(name="huber"), "huber"),
        (mr.losses.LogitMSE(), "logit_mse"),
    ],
)
def test_losses_of_every_form_equal_keras(loss, name, distiller, images, labels):
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    one_hot = np.eye(3, dtype="float32")[labels]
    logs = distiller.evaluate(images, one_hot, verbose=0, return_dict=True)
    student = distiller.student
    student.compile(loss=loss)
    expected = student.evaluate(images, one_hot, verbose=0, return_dict=True)["loss"]
    assert logs[name] == pytest.approx(expected, rel=1e-5)


def test_masks_count_as_in_keras(cross_entropy):
    """A model that masks time steps: the mean is over the steps that stay."""

    def tagger(width):
        inputs = keras.Input((5,), dtype="int32")
        hidden = keras.layers.Embedding(7, width, mask_zero=True, name="hidden")(inputs)
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    tokens = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [1, 2, 3, 4, 5]])
    tags = np.random.default_rng(0).integers(0, 3, size=(3, 5))
    student = tagger(4)
    distiller = mr.Distiller(student=student, teacher=tagger(6), knowledge=[mr.Response()])
    distiller.compile("sgd", cross_entropy)
    got = distiller.evaluate(tokens, tags, verbose=0, return_dict=True)["ce"]
    student.compile(loss=cross_entropy)
    expected = student.evaluate(tokens, tags, verbose=0, return_dict=True)["loss"]
    assert got == pytest.approx(expected, rel=1e-5)
