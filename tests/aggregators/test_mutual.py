"""Tests of mutual learning."""

import numpy as np
import pytest

import modreduce_keras as mr


def test_mutual_equals_the_reference_implementation(golden_group, online):
    reference = golden_group("mutual")
    result = mr.aggregators.Mutual()(reference["logits"])
    np.testing.assert_allclose(
        online(result, reference["logits"]), reference["per_peer"], rtol=1e-5
    )


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_every_peer_learns_from_every_other_one_alike(peers, random):
    logits = random.normal(size=(4, peers, 3)).astype("float32")
    result = mr.aggregators.Mutual()(logits)
    assert set(result) == {"targets", "source_weights"}
    for i in range(peers):
        np.testing.assert_array_equal(result["targets"][:, i], logits)
        expected = [0.0 if i == j else 1.0 / (peers - 1) for j in range(peers)]
        np.testing.assert_allclose(result["source_weights"][i], expected, rtol=1e-6)


@pytest.mark.parametrize("peers", [0, 1, None])
def test_too_few_peers_are_refused(peers):
    with pytest.raises(ValueError, match=f"Mutual needs at least 2 peers. Received: {peers} "):
        mr.aggregators.Mutual().build((None, peers, 10))
