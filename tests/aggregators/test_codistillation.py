"""Tests of learning from copies of the other peers."""

import numpy as np
import pytest

import modreduce_keras as mr


@pytest.mark.parametrize("peers", [2, 3, 5])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_target_is_the_mean_of_the_others_probabilities(peers, temperature, random, softmax):
    logits, averages = 3.0 * random.normal(size=(2, 4, peers, 6))
    aggregator = mr.aggregators.Codistillation()
    result = aggregator(
        logits.astype("float32"), averages=averages.astype("float32"), temperature=temperature
    )
    assert set(result) == {"targets"}
    for i in range(peers):
        others = [softmax(averages[:, j] / temperature) for j in range(peers) if j != i]
        found = np.exp(np.array(result["targets"][:, i]) / temperature)
        np.testing.assert_allclose(found, np.mean(others, axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("refresh", [1, 3, 50])
def test_copies_are_taken_after_every_so_many_steps(refresh):
    aggregator = mr.aggregators.Codistillation(refresh=refresh)
    peer, copy, seen = 0.0, 0.0, []
    for step in range(2 * refresh + 1):
        seen.append(copy)
        peer += 1.0  # a training step, which learns from the copy
        kept = float(aggregator.keep(step))
        copy = kept * copy + (1.0 - kept) * peer
    assert seen == [0.0] * refresh + [float(refresh)] * refresh + [2.0 * refresh]


@pytest.mark.parametrize("missing", ["averages", "temperature"])
def test_what_it_needs_must_come(missing):
    given = {"averages": np.ones((2, 3, 4)), "temperature": 3.0}
    del given[missing]
    with pytest.raises(ValueError, match=rf"needs {missing}: .*Received: {missing}=None"):
        mr.aggregators.Codistillation()(np.ones((2, 3, 4)), **given)


@pytest.mark.parametrize("refresh", [0, -1, 1.5, True, None])
def test_refresh_must_be_a_positive_integer(refresh):
    with pytest.raises(ValueError, match=f"refresh must be a positive integer.*={refresh}"):
        mr.aggregators.Codistillation(refresh=refresh)
