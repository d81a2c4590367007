"""Tests of the stop-gradient structure: which loss reaches what, for each method and variant."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.inputs import aggregator_inputs

PEERS = 4

# What the online loss of a peer reaches beside its own logits, which it always does: "others" are
# the other peers' logits, "weights" are the aggregator's own.
# And what the ensemble's cross-entropy reaches; None where there is no ensemble.
TABLE = [
    ("mean", {}, "", "logits"),
    ("leave_one_out_mean", {}, "", "logits"),
    ("weighted_average", {}, "", "weights"),
    ("weighted_average", {"variant": "modreduce"}, "", "weights"),
    ("fully_connected", {}, "", "weights"),
    ("mutual", {}, "", None),
    ("one", {}, "", "logits trunk weights"),
    ("one", {"variant": "modreduce"}, "", "weights"),
    ("okddip", {}, "others features weights", "logits"),
    ("okddip", {"variant": "reference"}, "others features weights", "logits"),
    ("okddip", {"trains_through_targets": False}, "", "logits"),
    ("okddip", {"variant": "reference", "trains_through_targets": False}, "", "logits"),
    ("pcl", {}, "", "features weights"),
    ("pcl", {"variant": "modreduce"}, "", None),
    ("kdcl", {"rule": "naive"}, "", None),
    ("kdcl", {"rule": "linear"}, "", None),
    ("kdcl", {"rule": "min_logit"}, "", None),
    ("codistillation", {}, "", None),
]
NAMES = [" ".join([name, *map(str, arguments.values())]) for name, arguments, *_ in TABLE]


def online(result, logits, peer, aggregator):
    """Returns the online loss of a peer as a distiller computes it."""
    kd, targets = mr.losses.KD(temperature=3.0), result["targets"][:, peer]
    loss = kd.per_sample if aggregator.trains_through_targets else kd.call
    if "source_weights" not in result:
        return tf.reduce_mean(loss(targets, logits[:, peer]))
    return sum(
        float(weight) * tf.reduce_mean(loss(targets[:, source], logits[:, peer]))
        for source, weight in enumerate(result["source_weights"][peer])
    )


def size(gradient):
    """Returns the largest absolute value of a gradient, or of a list of them."""
    parts = [part for part in keras.tree.flatten([gradient]) if part is not None]
    return max((float(tf.reduce_max(tf.abs(part))) for part in parts), default=0.0)


@pytest.fixture(params=TABLE, ids=NAMES)
def row(request, random):
    """One line of the table: the aggregator, its inputs, and what is expected."""
    identifier, arguments, by_online, by_ensemble = request.param
    aggregator = mr.aggregators.get(identifier, **arguments)
    logits = tf.constant(aggregator_inputs.some_logits(PEERS, random))
    given = aggregator_inputs.needed(aggregator, PEERS, random)
    given = {name: keras.tree.map_structure(tf.constant, value) for name, value in given.items()}
    aggregator(logits, **given)
    return aggregator, logits, given, by_online.split(), by_ensemble


def differentiated(aggregator, logits, given):
    """Returns what gradients are taken with respect to, by name."""
    inputs = {name: value for name, value in given.items() if name not in ("labels", "temperature")}
    weights = [variable.value for variable in aggregator.trainable_variables]
    return {"logits": logits, "weights": weights, **inputs}


def gradients_of(losses_of, aggregator, logits, given):
    """Returns the gradients, by name, of each of several losses of what the aggregator returns."""
    sources = differentiated(aggregator, logits, given)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([sources[name] for name in sources if name != "weights"])
        losses = losses_of(aggregator(logits, **given, training=True))
    return [tape.gradient(loss, sources) for loss in losses]


def test_online_loss_reaches_what_the_table_says(row):
    aggregator, logits, given, expected, _ = row

    def losses_of(result):
        return [online(result, logits, peer, aggregator) for peer in range(PEERS)]

    expected, found = set(expected), []
    for peer, gradients in enumerate(gradients_of(losses_of, aggregator, logits, given)):
        to_logits = np.array(gradients.pop("logits"))
        assert size(to_logits[:, peer]) > 1e-4
        found.append({name for name, gradient in gradients.items() if size(gradient) > 1e-6})
        if size(np.delete(to_logits, peer, axis=1)) > 1e-6:
            found[peer].add("others")
    # The leader's target is no attention: a mean of the others' logits.
    ends = 1 if aggregator.has_leader and expected else 0
    for peer in range(PEERS - ends):
        assert found[peer] == expected
    if ends:
        assert found[PEERS - 1] == {"others"}


def test_loss_of_the_ensemble_reaches_what_the_table_says(row):
    aggregator, logits, given, _, expected = row
    labels = np.arange(4)
    if expected is None:
        assert "ensemble" not in aggregator(logits, **given)
        assert not aggregator.learns
        return
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def losses_of(result):
        return [cross_entropy(labels, result["ensemble"])]

    (gradients,) = gradients_of(losses_of, aggregator, logits, given)
    found = {name for name, gradient in gradients.items() if size(gradient) > 1e-6}
    assert found == set(expected.split())
    if aggregator.learns:
        assert all(size(gradient) > 0 for gradient in gradients["weights"])


def test_the_table_has_every_aggregator_of_this_library():
    here = {name for name, cls in components("aggregator").items() if _is_ours(cls)}
    assert {identifier for identifier, *_ in TABLE} == here


def _is_ours(cls):
    return cls.__module__.startswith("modreduce_keras.")


def test_nobody_learns_from_okddips_leader_through_the_targets(random):
    aggregator = mr.aggregators.OKDDip()
    logits = tf.constant(aggregator_inputs.some_logits(PEERS, random))
    given = aggregator_inputs.needed(aggregator, PEERS, random)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        result = aggregator(logits, **given)
        loss = sum(online(result, logits, peer, aggregator) for peer in range(PEERS - 1))
    gradient = tape.gradient(loss, logits)
    assert size(gradient[:, :-1]) > 1e-3
    assert size(gradient[:, -1]) == 0.0
