"""Tests of peer collaborative learning: an ensemble on features, and mean teachers."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.fixture
def reference(golden_group):
    return golden_group("pcl")


@pytest.fixture
def result(reference):
    """What the aggregator with the golden weights returns."""
    pcl = mr.aggregators.PCL()
    features = [feature.shape for feature in reference["features"]]
    pcl.build(reference["logits"].shape, features_shape=features)
    pcl.set_weights([reference["kernel"], reference["bias"]])
    averages = reference["mean_teacher_logits"]
    return pcl(reference["logits"], features=reference["features"], averages=averages)


def sources(result, which):
    """Returns the result with some of the sources only."""
    return {
        "targets": result["targets"][:, :, which],
        "source_weights": result["source_weights"][:, which],
    }


def test_ensemble_equals_the_reference_implementation(result, reference, cross_entropy, online):
    np.testing.assert_allclose(result["ensemble"], reference["ensemble"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        cross_entropy(reference["labels"], result["ensemble"]),
        reference["ensemble_cross_entropy"],
        rtol=1e-5,
    )
    losses = online(sources(result, slice(0, 1)), reference["logits"])
    np.testing.assert_allclose(losses, reference["per_peer_ensemble"], rtol=1e-5)


def test_mean_teachers_equal_the_reference_implementation(result, reference, online):
    losses = online(sources(result, slice(1, None)), reference["logits"])
    np.testing.assert_allclose(losses, reference["per_peer_mean_teacher"], rtol=1e-5)


def test_online_loss_is_the_sum_of_both(result, reference, online):
    expected = reference["per_peer_ensemble"] + reference["per_peer_mean_teacher"]
    np.testing.assert_allclose(online(result, reference["logits"]), expected, rtol=1e-5)


def test_modreduce_adds_up_the_losses_against_the_others_and_has_no_ensemble(reference, online):
    pcl = mr.aggregators.PCL(variant="modreduce")
    assert (pcl.needs, pcl.learns, pcl.average_every) == (("averages",), False, "epoch")
    result = pcl(reference["logits"], averages=reference["mean_teacher_logits"])
    assert set(result) == {"targets", "source_weights"}
    assert pcl.weights == []
    losses = online(result, reference["logits"])
    np.testing.assert_allclose(losses, 3.0 * reference["per_peer_mean_teacher"], rtol=1e-5)


def test_paper_moves_the_averages_at_every_step():
    pcl = mr.aggregators.PCL()
    assert (pcl.needs, pcl.learns, pcl.average_every) == (("features", "averages"), True, "step")


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_embeddings_may_be_of_unequal_widths(peers, random):
    features = [random.normal(size=(4, 3 + i)).astype("float32") for i in range(peers)]
    logits, averages = random.normal(size=(2, 4, peers, 6)).astype("float32")
    pcl = mr.aggregators.PCL()
    result = pcl(logits, features=features, averages=averages)
    kernel, bias = pcl.get_weights()
    pcl.dense.bias.assign(bias + np.arange(6))
    result = pcl(logits, features=features, averages=averages)
    ensemble = np.arange(6.0)
    for i, feature in enumerate(features):
        start = sum(range(3, 3 + i))
        ensemble = ensemble + feature.astype("float64") @ kernel[start : start + 3 + i]
    np.testing.assert_allclose(result["ensemble"], ensemble, rtol=1e-5, atol=1e-5)
    for i in range(peers):
        np.testing.assert_array_equal(result["targets"][:, i, 0], result["ensemble"])
        np.testing.assert_array_equal(result["targets"][:, i, 1:], averages)
        expected = [1.0, *(0.0 if i == j else 1.0 / (peers - 1) for j in range(peers))]
        np.testing.assert_allclose(result["source_weights"][i], expected, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.999, 0.5, 0.0])
def test_ema_weights_are_plain_averages_until_the_decay_is_reached(decay):
    pcl = mr.aggregators.PCL(decay=decay)
    for step in (0, 1, 2, 9, 998, 999, 1000, 10**6):
        expected = min(1.0 - 1.0 / (step + 1), decay)
        np.testing.assert_allclose(pcl.keep(step), expected, rtol=1e-6)


def test_embeddings_must_be_vectors():
    with pytest.raises(ValueError, match=r"vectors \(batch, width\). Received: features of shape"):
        mr.aggregators.PCL().build((None, 2, 10), features_shape=[(None, 8), (None, 4, 4, 8)])


@pytest.mark.parametrize("missing", ["features", "averages"])
def test_what_it_needs_must_come(missing):
    given = {"features": [np.ones((2, 8))] * 3, "averages": np.ones((2, 3, 4))}
    del given[missing]
    with pytest.raises(ValueError, match=rf"needs {missing}: .*Received: {missing}=None"):
        mr.aggregators.PCL()(np.ones((2, 3, 4)), **given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "code"}, r"variant must be one of \['paper', 'modreduce'\]. .*'code'"),
        ({"decay": 1.1}, "decay must be a number from 0 to 1. Received: decay=1.1"),
        ({"decay": -0.1}, "decay must be a number from 0 to 1. Received: decay=-0.1"),
        ({"decay": True}, "decay must be a number from 0 to 1. Received: decay=True"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mr.aggregators.PCL(**arguments)
