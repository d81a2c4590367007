"""Tests of targets that are chosen or combined by the labels."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def losses(logits, labels):
    """Returns the cross-entropy of each row of (..., batch, classes), in float64."""
    logits = np.asarray(logits, "float64")
    largest = logits.max(axis=-1)
    normalizer = largest + np.log(np.exp(logits - largest[..., None]).sum(axis=-1))
    return normalizer - logits[..., np.arange(len(labels)), labels]


def group(peers, random, scale=3.0, batch=16, classes=10):
    logits = scale * random.normal(size=(batch, peers, classes))
    return logits.astype("float32"), random.integers(classes, size=batch)


def target(rule, logits, labels):
    """Returns the target, after a check that it teaches every peer and that nothing else comes."""
    aggregator = mr.aggregators.KDCL(rule=rule)
    result = tf.function(lambda z, y: aggregator(z, labels=y))(logits, labels)
    assert set(result) == {"targets"}
    for i in range(logits.shape[1]):
        np.testing.assert_array_equal(result["targets"][:, i], result["targets"][:, 0])
    return np.array(result["targets"][:, 0])


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_naive_is_the_peer_of_the_smallest_loss_for_each_example(peers, random):
    logits, labels = group(peers, random)
    found = target("naive", logits, labels)
    chosen = set()
    for example in range(16):
        own = [
            losses(logits[example : example + 1, i], labels[example : example + 1])[0]
            for i in range(peers)
        ]
        chosen.add(int(np.argmin(own)))
        np.testing.assert_allclose(found[example], logits[example, np.argmin(own)], rtol=1e-6)
    assert chosen == set(range(peers))


@pytest.mark.parametrize("peers", [2, 3, 5])
def test_min_logit_is_the_smallest_difference_to_the_labelled_class(peers, random):
    logits, labels = group(peers, random)
    found = target("min_logit", logits, labels)
    for example, label in enumerate(labels):
        for class_ in range(10):
            expected = min(float(z[class_]) - float(z[label]) for z in logits[example])
            assert found[example, class_] == pytest.approx(expected, abs=1e-5)


def test_min_logit_has_a_smaller_loss_than_every_peer(random):
    logits, labels = group(3, random)
    found = losses(target("min_logit", logits, labels), labels)
    assert (found[:, None] <= losses(logits.transpose(1, 0, 2), labels).T + 1e-6).all()


def shares_of(found, logits):
    """Returns the weights with which the logits add up to the target."""
    return np.stack(
        [
            np.linalg.lstsq(z.astype("float64").T, t, rcond=None)[0]
            for z, t in zip(logits, found.astype("float64"), strict=True)
        ]
    )


@pytest.mark.parametrize("peers", [2, 3])
def test_linear_has_the_smallest_loss_of_all_convex_combinations_on_a_grid(peers, random):
    logits, labels = group(peers, random)
    found = losses(target("linear", logits, labels), labels)
    ticks = 500 if peers == 2 else 60
    grid = [
        shares
        for shares in itertools.product(range(ticks + 1), repeat=peers)
        if sum(shares) == ticks
    ]
    combined = np.einsum("gp,bpc->gbc", np.array(grid) / ticks, logits.astype("float64"))
    assert (found <= losses(combined, labels).min(axis=0) + 1e-5).all()


@pytest.mark.parametrize("peers", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_linear_is_optimal_by_its_duality_gap(peers, scale, random):
    logits, labels = group(peers, random, scale)
    found = target("linear", logits, labels)
    shares = shares_of(found, logits)
    np.testing.assert_allclose(shares.sum(axis=1), np.ones(16), atol=1e-4)
    assert shares.min() > -1e-4
    exact = logits.astype("float64")
    above = exact - np.stack([z[:, y] for z, y in zip(exact, labels, strict=True)])[:, :, None]
    combined = np.einsum("bp,bpc->bc", shares, above)
    probabilities = np.exp(combined - combined.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    slope = np.einsum("bc,bpc->bp", probabilities, above)
    # A convex function is at most this above its minimum over the simplex.
    gap = (shares * slope).sum(axis=1) - slope.min(axis=1)
    assert gap.max() < 1e-5 * max(1.0, scale)


def test_linear_is_one_peer_where_that_is_best_and_between_them_where_not():
    logits = np.array(
        [[[9.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[4.0, 0.0, 8.0], [4.0, 8.0, 0.0]]], "float32"
    )
    found = target("linear", logits, np.array([0, 0]))
    np.testing.assert_allclose(found, [[9.0, 0.0, 0.0], [4.0, 4.0, 4.0]], atol=1e-3)


def test_linear_of_equal_peers_is_that_peer(random):
    logits, labels = group(1, random)
    found = target("linear", np.repeat(logits, 3, axis=1), labels)
    np.testing.assert_allclose(found, logits[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "jit_compile"),
    # Compiling "linear" by XLA takes seconds.
    [("naive", False), ("linear", False), ("min_logit", False), ("naive", True)],
)
def test_rules_run_in_a_graph_of_any_batch(rule, jit_compile, random):
    logits, labels = group(3, random)
    aggregator = mr.aggregators.KDCL(rule=rule)
    signature = [tf.TensorSpec((None, 3, 10)), tf.TensorSpec((None,), "int64")]

    def targets(logits, labels):
        return aggregator(logits, labels=labels)["targets"]

    graph = tf.function(targets, signature, jit_compile=jit_compile)
    np.testing.assert_allclose(graph(logits, labels), targets(logits, labels), atol=1e-4)


def test_labels_must_come():
    with pytest.raises(ValueError, match=r"KDCL needs labels: .*Received: labels=None"):
        mr.aggregators.KDCL()(np.ones((2, 3, 4)))


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match=r"rule must be one of \['naive', .*rule='general'"):
        mr.aggregators.KDCL(rule="general")
