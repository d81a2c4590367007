"""Properties of aggregators, over drawn shapes and numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.inputs import aggregator_inputs
from tests.support.inputs.cases import assert_close
from tests.support.inputs.drawn import SYMMETRIC, batches, classes, few, seeds, some


@st.composite
def groups(draw, identifier):
    """Draws an aggregator with the logits of any number of peers, and what else it needs."""
    aggregator = mr.aggregators.get(identifier)
    number = draw(st.integers(aggregator.least_peers, 6))
    random = np.random.default_rng(draw(seeds))
    sizes = {"batch": draw(batches), "classes": draw(classes)}
    logits = aggregator_inputs.some_logits(number, random, **sizes)
    return aggregator, logits, aggregator_inputs.needed(aggregator, number, random, **sizes)


def targets_of(result):
    """Returns targets of one source or several, (batch, peers, sources, classes), and weights."""
    targets = np.asarray(result["targets"])
    if targets.ndim == 4:
        return targets, np.asarray(result["source_weights"])
    return targets[:, :, None], np.ones((targets.shape[1], 1))


@pytest.mark.parametrize("identifier", components("aggregator"))
@few
@given(data=st.data())
def test_an_aggregator_gives_each_peer_a_target_for_each_sample(identifier, data):
    aggregator, logits, given = data.draw(groups(identifier))
    result = aggregator(logits, **given)
    targets, weights = targets_of(result)
    batch, peers, number = logits.shape
    assert (*targets.shape[:2], targets.shape[3]) == (batch, peers, number)
    assert weights.shape == (peers, targets.shape[2])
    assert np.isfinite(targets).all()
    if "ensemble" in result:
        assert tuple(result["ensemble"].shape) == (batch, number)
    order = np.random.default_rng(batch).permutation(batch)
    permuted = aggregator(logits[order], **aggregator_inputs.rows(given, order))
    assert_close(targets_of(permuted)[0], targets[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("identifier", SYMMETRIC)
@few
@given(data=st.data(), seed=seeds)
def test_permuted_peers_have_permuted_targets(identifier, data, seed):
    aggregator, logits, given = data.draw(groups(identifier))
    order = np.random.default_rng(seed).permutation(logits.shape[1])
    targets, weights = targets_of(aggregator(logits, **given))
    permuted, own = targets_of(aggregator(logits[:, order], **given))
    if targets.shape[2] == 1:
        assert_close(permuted, targets[:, order], rtol=1e-4, atol=1e-4)
        return
    assert_close(permuted, targets[:, order][:, :, order])
    assert_close(own, weights[order][:, order])


@some
@given(data=st.data())
def test_means_of_peers_equal_those_of_numpy(data):
    _, logits, _ = data.draw(groups("mean"))
    exact, peers = logits.astype("float64"), logits.shape[1]
    mean = mr.aggregators.Mean()(logits)
    others = mr.aggregators.LeaveOneOutMean()(logits)
    for peer in range(peers):
        without = exact[:, [other for other in range(peers) if other != peer]]
        assert_close(mean["targets"][:, peer], exact.mean(axis=1))
        assert_close(others["targets"][:, peer], without.mean(axis=1))
