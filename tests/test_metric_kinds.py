"""Metrics of agreement and diversity of one logit and of independent labels."""

import numpy as np
import pytest

import modreduce_keras as mr


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, "float64")))


@pytest.mark.parametrize("units", [1, 4])
def test_metrics_of_labels_equal_numpy(units, random):
    a, b, c = random.normal(size=(3, 11, units)).astype("float32")
    metric = mr.metrics.Agreement(kind="labels")
    metric.update_state(a, b)
    assert float(metric.result()) == pytest.approx(((a > 0) == (b > 0)).mean())
    peers = np.stack([a, b, c], axis=1)
    pairs = [(a, b), (a, c), (b, c)]
    metric = mr.metrics.PeerAgreement(kind="labels")
    metric.update_state(peers)
    same = np.mean([((p > 0) == (q > 0)).mean() for p, q in pairs])
    assert float(metric.result()) == pytest.approx(same)
    metric = mr.metrics.PeerDiversity(kind="labels")
    metric.update_state(peers)
    far = np.mean([2**0.5 * np.abs(sigmoid(p) - sigmoid(q)).mean() for p, q in pairs])
    assert float(metric.result()) == pytest.approx(far, rel=1e-5)


@pytest.mark.parametrize("name", ["Agreement", "PeerAgreement", "PeerDiversity"])
def test_the_kind_survives_the_config_and_is_checked(name, round_trip):
    metric = getattr(mr.metrics, name)(kind="labels")
    assert round_trip(metric).kind == "labels"
    with pytest.raises(ValueError, match=r"kind must be one of \['classes', 'labels'\]"):
        getattr(mr.metrics, name)(kind="regression")


def test_one_logit_has_no_top_class():
    with pytest.raises(ValueError, match="one logit, or independent labels, take kind='labels'"):
        mr.metrics.Agreement().update_state(np.zeros((4, 1)), np.zeros((4, 1)))
