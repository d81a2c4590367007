"""Tests of the dense layer on all peers' logits."""

import numpy as np
import pytest

import modreduce_keras as mr


def test_fully_connected_equals_the_reference_implementation(golden_group, cross_entropy, online):
    reference = golden_group("fully_connected")
    aggregator = mr.aggregators.FullyConnected()
    aggregator.build(reference["logits"].shape)
    aggregator.set_weights([reference["kernel"], reference["bias"]])
    result = aggregator(reference["logits"])
    np.testing.assert_allclose(result["ensemble"], reference["ensemble"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        cross_entropy(reference["labels"], result["ensemble"]),
        reference["ensemble_cross_entropy"],
        rtol=1e-5,
    )
    distillation = sum(online(result, reference["logits"]))
    assert distillation == pytest.approx(float(reference["distillation"]), rel=1e-5)


@pytest.mark.parametrize("peers", [2, 5])
def test_fully_connected_has_a_row_for_each_class_of_each_peer(peers):
    aggregator = mr.aggregators.FullyConnected()
    aggregator.build((None, peers, 7))
    assert [weight.shape for weight in aggregator.get_weights()] == [(peers * 7, 7), (7,)]
