"""One training step of each distiller against the same step written by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from tests.support.equations.by_hand import copy_of, cross_entropy, distances, huber, kd


def tapped(model, *taps):
    return keras.Model(model.input, [model.output, *(model.get_layer(t).output for t in taps)])


def sgd_step(tape, loss, variables, learning_rate):
    return [
        variable.numpy() - learning_rate * gradient.numpy()
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True)
    ]


def assert_close(variables, expected):
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6, err_msg=variable.path)


def hint_regressor(knowledge):
    """The regressor's weights and the regression written by hand (equal sizes: 1×1, BN, ReLU)."""
    convolution, norm = knowledge.adapter.convolution, knowledge.adapter.normalization
    kernel, bias, gamma, beta = (
        tf.Variable(v) for v in (convolution.kernel, convolution.bias, norm.gamma, norm.beta)
    )

    def regress(maps):
        mapped = tf.nn.conv2d(maps, kernel, 1, "VALID") + bias
        mean, variance = tf.nn.moments(mapped, [0, 1, 2])
        return tf.nn.relu((mapped - mean) / tf.sqrt(variance + norm.epsilon) * gamma + beta)

    return [kernel, bias, gamma, beta], regress


def test_distiller_with_all_kinds_of_knowledge(net, teacher, images, labels):
    hint = mr.Feature("hint", at="stage2", weight=2.0)
    student = net()
    distiller = mr.Distiller(
        student=student,
        teacher=teacher,
        knowledge=[
            mr.Response(mr.losses.KD(temperature=3.0), weight=0.9),
            hint,
            mr.Relation("rkd_distance", at="embedding", weight=25.0),
        ],
        supervised_weight=0.1,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.05), loss)

    by_hand = copy_of(student)
    regressor, regress = hint_regressor(hint)
    logits_t, maps_t, embedding_t = tapped(teacher, "stage2", "embedding")(images, training=False)
    variables = by_hand.trainable_variables + regressor
    with tf.GradientTape() as tape:
        logits, maps, embedding = tapped(by_hand, "stage2", "embedding")(images, training=True)
        terms = {
            "ce": cross_entropy(labels, logits),
            "kd": kd(logits_t, logits, 3.0),
            "hint": tf.reduce_mean((regress(maps) - maps_t) ** 2),
            "rkd_distance": huber(distances(embedding) - distances(embedding_t)),
        }
        weights = {"ce": 0.1, "kd": 0.9, "hint": 2.0, "rkd_distance": 25.0}
        total = sum(weights[name] * term for name, term in terms.items())
    expected = sgd_step(tape, total, variables, 0.05)

    logs = distiller.train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(float(total), rel=1e-5)
    for name, term in terms.items():
        assert logs[name] == pytest.approx(float(term), rel=1e-5), name
    adapter = hint.adapter.trainable_variables
    assert_close([*student.trainable_variables, *adapter], expected)


# The compiled step is that of two peers; of more it is long to trace.
@pytest.mark.parametrize("peers", [2, 3, 5])
@pytest.mark.parametrize("aggregator", ["mean", "weighted_average"])
def test_peers_without_a_teacher(aggregator, peers, net, images, labels, cross_entropy_loss):
    students = {f"p{i}": net() for i in range(peers)}
    distiller = mr.PeerDistiller(students, aggregator=aggregator, online_weight=0.7)
    if aggregator == "weighted_average":
        distiller.aggregator.weights_of_peers.assign(np.linspace(-1.0, 1.0, peers))
    distiller.compile(keras.optimizers.SGD(0.05), cross_entropy_loss, run_eagerly=peers > 2)

    by_hand = [copy_of(student) for student in students.values()]
    weights = tf.Variable(np.linspace(-1.0, 1.0, peers), dtype="float32")
    with tf.GradientTape(persistent=True) as tape:
        logits = [model(images, training=True) for model in by_hand]
        constant = [tf.stop_gradient(z) for z in logits]
        shares = (
            tf.unstack(tf.nn.softmax(weights))
            if aggregator == "weighted_average"
            else [1.0 / peers] * peers
        )
        ensemble = sum(share * z for share, z in zip(shares, constant, strict=True))
        ensemble_ce = cross_entropy(labels, ensemble)
        losses = [cross_entropy(labels, z) + 0.7 * kd(ensemble, z, 3.0) for z in logits]
    expected = [
        sgd_step(tape, loss, model.trainable_variables, 0.05)
        for loss, model in zip(losses, by_hand, strict=True)
    ]

    logs = distiller.train_on_batch(images, labels, return_dict=True)
    total = float(sum(losses))
    if aggregator == "weighted_average":
        total += float(ensemble_ce)
        [moved] = sgd_step(tape, ensemble_ce, [weights], 0.05)
        assert_close([distiller.aggregator.weights_of_peers], [moved])
    assert logs["loss"] == pytest.approx(total, rel=1e-5)
    assert logs["ensemble/ce"] == pytest.approx(float(ensemble_ce), rel=1e-5)
    for student, values in zip(students.values(), expected, strict=True):
        assert_close(student.trainable_variables, values)


def test_modreduce_with_a_single_sgd_equals_three_updates_by_hand(
    modreduce, teacher, images, labels
):
    hint = modreduce.knowledge["feature"][1]
    by_hand = {name: copy_of(student) for name, student in modreduce.students.items()}
    regressor, regress = hint_regressor(hint)
    logits_t, maps_t, embedding_t = tapped(teacher, "stage2", "embedding")(images, training=False)
    w = 0.3
    with tf.GradientTape(persistent=True) as tape:
        response = by_hand["response"](images, training=True)
        feature, maps = tapped(by_hand["feature"], "stage2")(images, training=True)
        relation, embedding = tapped(by_hand["relation"], "embedding")(images, training=True)
        ensemble = tf.stop_gradient(response + feature + relation) / 3.0
        # Multipliers 10 for response and 100 for feature; none for relation.
        offline = {
            "response": 10.0 / 2.0 * (cross_entropy(labels, response) + kd(logits_t, response, 4)),
            "feature": 100.0
            / 102.0
            * (
                cross_entropy(labels, feature)
                + kd(logits_t, feature, 4)
                + 100.0 * tf.reduce_mean((regress(maps) - maps_t) ** 2)
            ),
            "relation": cross_entropy(labels, relation)
            + kd(logits_t, relation, 4)
            + 25.0 * huber(distances(embedding) - distances(embedding_t)),
        }
        logits = {"response": response, "feature": feature, "relation": relation}
        losses = {
            name: (1 - w) * offline[name] + w * kd(ensemble, logits[name], 4) for name in logits
        }
    expected = {
        name: sgd_step(tape, losses[name], model.trainable_variables, 0.05)
        for name, model in by_hand.items()
    }
    expected_regressor = sgd_step(tape, losses["feature"], regressor, 0.05)
    ensemble_ce = float(cross_entropy(labels, ensemble))

    logs = modreduce.train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(float(sum(losses.values())) + ensemble_ce, rel=1e-5)
    for name, student in modreduce.students.items():
        assert_close(student.trainable_variables, expected[name])
    assert_close(hint.adapter.trainable_variables, expected_regressor)


@pytest.mark.slow
def test_peers_learn_from_each_other_only_through_constants(modreduce, images, labels):
    """No student's weights move by another student's loss, and the aggregator's by none."""
    names = list(modreduce.students)
    with tf.GradientTape(persistent=True) as tape:
        outputs = modreduce.forward(tf.constant(images), training=True)
        terms = modreduce.compute_terms(tf.constant(labels), outputs)
    groups = modreduce.variable_groups()
    for term, values in terms.items():
        owner = term.split("/")[0]
        reached = {
            group
            for group, variables in groups.items()
            if any(gradient is not None for gradient in tape.gradient(values, variables))
        }
        assert reached == {"aggregator" if owner == "ensemble" else owner}, term
    assert set(groups) == {*names, "aggregator"}


def test_scheduled_online_weight_mixes_offline_and_online(net, teacher, images, labels):
    modreduce = mr.ModReduce(
        teacher=teacher,
        students={name: net() for name in "ab"},
        knowledge={name: [mr.Response()] for name in "ab"},
        aggregator="mean",
        online_weight=mr.schedules.CutOff(0.7, steps=1),
    )
    modreduce.compile(keras.optimizers.SGD(0.0), mr.losses.LogitMSE())
    one_hot = np.eye(3, dtype="float32")[labels]
    for w in (0.0, 0.7, 0.7):
        logs = modreduce.train_on_batch(images, one_hot, return_dict=True)
        modreduce.reset_metrics()
        expected = sum(
            (1 - w) * (logs[f"{n}/logit_mse"] + logs[f"{n}/kd"]) + w * logs[f"{n}/online"]
            for n in "ab"
        )
        assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_an_ensemble_that_does_not_learn_reaches_no_weights(net, images, labels):
    """Its cross-entropy is logged, but is no part of the loss: even an infinite one."""
    peers = mr.PeerDistiller({"a": net(), "b": net()}, aggregator="mean", online_weight=0.0)
    assert peers.aggregator.learns is False
    peers.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert "ensemble/ce" not in peers.term_weights()
    logs = peers.train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["a/ce"] + logs["b/ce"], rel=1e-6)
    assert logs["ensemble/ce"] > 0
