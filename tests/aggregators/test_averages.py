"""Tests of the averages of the peers' logits, plain and learnt."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


@pytest.fixture
def reference(golden):
    """The golden weighted average, with its logits as (batch, peers, classes)."""
    arrays = golden("weighted_average")
    return {**arrays, "logits": arrays["logits"].transpose(1, 0, 2)}


@pytest.fixture
def aggregator(reference):
    """A weighted average with the golden weights."""
    aggregator = mr.aggregators.WeightedAverage()
    aggregator.build(reference["logits"].shape)
    aggregator.set_weights([reference["weights"]])
    return aggregator


def cross_entropy(labels, logits):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)


def test_weighted_average_equals_the_reference_implementation(aggregator, reference):
    result = aggregator(reference["logits"])
    np.testing.assert_allclose(result["ensemble"], reference["ensemble"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result["ensemble_weight"], reference["normalised"], rtol=1e-6)
    np.testing.assert_allclose(
        cross_entropy(reference["labels"], result["ensemble"]),
        reference["ensemble_cross_entropy"],
        rtol=1e-6,
    )


def test_what_the_peers_learn_equals_the_reference_implementation(aggregator, reference):
    logits = reference["logits"]
    targets = aggregator(logits)["targets"]
    kd = mr.losses.KD(temperature=float(reference["temperature"]))
    distillation = sum(float(kd(targets[:, i], logits[:, i])) for i in range(logits.shape[1]))
    assert distillation == pytest.approx(float(reference["distillation"]), rel=1e-5)


def test_every_peer_learns_from_the_ensemble(aggregator, reference):
    result = aggregator(reference["logits"])
    for peer in range(4):
        np.testing.assert_array_equal(result["targets"][:, peer], result["ensemble"])


def test_the_ensembles_loss_reaches_the_weights_and_not_the_logits(
    aggregator, reference, finite_differences
):
    logits, weights = tf.constant(reference["logits"]), aggregator.trainable_variables[0]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = cross_entropy(reference["labels"], aggregator(logits)["ensemble"])
    to_logits, to_weights = tape.gradient(loss, [logits, weights.value])
    assert to_logits is None

    def equation(values):
        shares = np.exp(values) / np.exp(values).sum()
        ensemble = np.einsum("p,bpc->bc", shares, reference["logits"].astype("float64"))
        normalizer = np.log(np.exp(ensemble).sum(axis=1))
        return np.mean(normalizer - ensemble[np.arange(8), reference["labels"]])

    expected = finite_differences(equation, reference["weights"])
    np.testing.assert_allclose(to_weights, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("peers", [2, 5])
def test_a_new_weighted_average_is_the_mean(peers, random):
    logits = random.normal(size=(3, peers, 4)).astype("float32")
    learnt, plain = mr.aggregators.WeightedAverage()(logits), mr.aggregators.Mean()(logits)
    np.testing.assert_allclose(learnt["ensemble"], logits.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plain["ensemble"], logits.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(learnt["ensemble_weight"], np.full(peers, 1.0 / peers), rtol=1e-6)


@pytest.mark.usefixtures("mixed_bfloat16")
def test_aggregators_compute_in_float32_under_a_policy_of_low_precision(random):
    aggregator = mr.aggregators.WeightedAverage()
    logits = random.normal(size=(3, 2, 4)).astype("float32")
    ensemble = aggregator(logits)["ensemble"]
    assert aggregator.trainable_variables[0].dtype == "float32"
    assert ensemble.dtype == tf.float32
    np.testing.assert_allclose(ensemble, logits.mean(axis=1), atol=1e-6)


def test_leave_one_out_mean_equals_the_reference_implementation(golden_group, online):
    reference = golden_group("leave_one_out_mean")
    result = mr.aggregators.LeaveOneOutMean()(reference["logits"])
    np.testing.assert_allclose(
        online(result, reference["logits"]), reference["per_peer"], rtol=1e-5
    )


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_leave_one_out_mean_is_the_mean_of_the_others(peers, random):
    logits = random.normal(size=(4, peers, 3)).astype("float32")
    result = mr.aggregators.LeaveOneOutMean()(logits)
    for i in range(peers):
        others = [logits[:, j].astype("float64") for j in range(peers) if j != i]
        np.testing.assert_allclose(result["targets"][:, i], np.mean(others, axis=0), atol=1e-6)
    np.testing.assert_allclose(result["ensemble"], logits.mean(axis=1), atol=1e-6)


def test_weights_of_modreduce_are_replaced_by_their_softmax_at_each_training_step(
    reference, finite_differences
):
    aggregator = mr.aggregators.WeightedAverage(variant="modreduce")
    logits = reference["logits"]
    aggregator.build(logits.shape)
    aggregator.set_weights([reference["weights"]])
    weights = aggregator.trainable_variables[0]
    expected = reference["weights"].astype("float64")
    for _ in range(2):
        expected = np.exp(expected) / np.exp(expected).sum()
        with tf.GradientTape() as tape:
            result = aggregator(logits, training=True)
            loss = cross_entropy(reference["labels"], result["ensemble"])
        gradient = tape.gradient(loss, weights.value)
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
        np.testing.assert_allclose(result["ensemble_weight"], expected, rtol=1e-5)
        ensemble = np.einsum("p,bpc->bc", expected, logits)
        np.testing.assert_allclose(result["ensemble"], ensemble, rtol=1e-5, atol=1e-5)

        def equation(shares):
            ensemble = np.einsum("p,bpc->bc", shares, logits.astype("float64"))
            normalizer = np.log(np.exp(ensemble).sum(axis=1))
            return np.mean(normalizer - ensemble[np.arange(8), reference["labels"]])

        # To the weights themselves, not through the softmax that replaced them.
        np.testing.assert_allclose(
            gradient, finite_differences(equation, expected), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("training", [False, None])
def test_weights_of_modreduce_stay_in_evaluation(reference, training):
    aggregator = mr.aggregators.WeightedAverage(variant="modreduce")
    aggregator.build(reference["logits"].shape)
    aggregator.set_weights([reference["weights"]])
    result = aggregator(reference["logits"], training=training)
    np.testing.assert_array_equal(aggregator.get_weights()[0], reference["weights"])
    np.testing.assert_allclose(result["ensemble"], reference["ensemble"], rtol=1e-6, atol=1e-6)


def test_weights_of_the_paper_stay_in_a_training_step(aggregator, reference):
    aggregator(reference["logits"], training=True)
    np.testing.assert_array_equal(aggregator.get_weights()[0], reference["weights"])


def test_weights_of_modreduce_move_alike_on_two_replicas(two_replicas, random):
    logits = random.normal(size=(4, 3, 5)).astype("float32")
    with two_replicas.scope():
        aggregator = mr.aggregators.WeightedAverage(variant="modreduce")
        aggregator.build(logits.shape)
        aggregator.set_weights([np.array([0.0, 1.0, 2.0])])

    @tf.function
    def step():
        return two_replicas.run(lambda: aggregator(logits, training=True)["ensemble_weight"])

    shares = two_replicas.experimental_local_results(step())
    expected = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    assert len(shares) == 2
    for share in shares:
        np.testing.assert_allclose(share, expected, rtol=1e-6)
    for copy in two_replicas.experimental_local_results(aggregator.weights_of_peers.value):
        np.testing.assert_allclose(copy, expected, rtol=1e-6)


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match=r"variant must be one of .*'modreduce'.*variant='free'"):
        mr.aggregators.WeightedAverage(variant="free")


def test_call_is_to_be_written():
    with pytest.raises(NotImplementedError):
        mr.aggregators.Aggregator()(np.ones((2, 3, 4)))
