"""Tests of the plain and the learnt average of the peers' logits."""

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


def test_call_is_to_be_written():
    with pytest.raises(NotImplementedError):
        mr.aggregators.Aggregator()(np.ones((2, 3, 4)))
