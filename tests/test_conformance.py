"""What holds for every registered aggregator and schedule, over the registry."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.registry import components
from tests.support.inputs import aggregator_inputs
from tests.support.inputs.cases import assert_close
from tests.support.inputs.method_examples import example_arguments

every_aggregator = pytest.mark.parametrize("identifier", components("aggregator"))
every_schedule = pytest.mark.parametrize("identifier", components("schedule"))


# Aggregators


def aggregators_with(*numbers):
    """Parametrizes a test by every aggregator and each of some numbers of peers it takes."""
    return pytest.mark.parametrize(
        ("identifier", "peers"),
        [
            (name, number)
            for name, cls in components("aggregator").items()
            for number in numbers
            if number >= cls.least_peers
        ],
    )


def an_aggregator(identifier, peers, random, **sizes):
    """Returns a new aggregator, and the logits and the rest that it is called with."""
    aggregator = mr.aggregators.get(identifier)
    logits = aggregator_inputs.some_logits(peers, random, **sizes)
    return aggregator, logits, aggregator_inputs.needed(aggregator, peers, random, **sizes)


def online_loss(aggregator, result, logits):
    """Returns the sum of what all peers learn from their targets."""
    kd = mr.losses.KD(temperature=3.0)
    loss = kd.per_sample if aggregator.trains_through_targets else kd.call
    targets, weights = result["targets"], result.get("source_weights")
    if weights is None:
        targets, weights = targets[:, :, None], np.ones((logits.shape[1], 1))
    total = 0.0
    for peer, source in zip(*np.nonzero(weights), strict=True):
        total += float(weights[peer, source]) * loss(targets[:, peer, source], logits[:, peer])
    return tf.reduce_mean(total)


@aggregators_with(2, 3, 5)
def test_aggregator_gives_what_it_says_for_any_number_of_peers(
    identifier, peers, round_trip, random
):
    aggregator, logits, given = an_aggregator(identifier, peers, random)
    result = aggregator(logits, **given)
    shape = tuple(result["targets"].shape)
    if "source_weights" in result:
        assert shape == (4, peers, shape[2], 7)
        assert tuple(result["source_weights"].shape) == (peers, shape[2])
    else:
        assert shape == (4, peers, 7)
    assert result["targets"].dtype == tf.float32
    if "ensemble" in result:
        assert result["ensemble"].shape == (4, 7)
    assert aggregator.learns <= ("ensemble" in result)
    assert set(result) - {"ensemble", "source_weights"} == {"targets", *aggregator.logs}
    assert all(tuple(result[log].shape) in ((), (peers,)) for log in aggregator.logs)
    again = round_trip(aggregator)
    assert again.get_config() == aggregator.get_config()
    again(logits, **given)
    again.set_weights(aggregator.get_weights())
    keras.tree.map_structure(np.testing.assert_array_equal, again(logits, **given), result)


@every_aggregator
def test_aggregator_refuses_too_few_peers(identifier):
    aggregator = mr.aggregators.get(identifier)
    few = aggregator.least_peers - 1
    message = rf"{type(aggregator).__name__} needs at least {few + 1} peers\. Received: {few} "
    with pytest.raises(ValueError, match=message):
        aggregator.build((None, few, 10))


@every_aggregator
def test_aggregator_treats_each_example_on_its_own(identifier, random):
    aggregator, logits, given = an_aggregator(identifier, 3, random, batch=5)
    targets, order = aggregator(logits, **given)["targets"], random.permutation(5)
    permuted = aggregator(logits[order], **aggregator_inputs.rows(given, order))["targets"]
    assert_close(permuted, tf.gather(targets, order))
    one = slice(2, 3)
    alone = aggregator(logits[one], **aggregator_inputs.rows(given, one))["targets"]
    assert_close(alone, targets[one])


@every_aggregator
@pytest.mark.parametrize("size", [50.0, 500.0])
def test_aggregator_is_finite_for_large_logits(identifier, size, random):
    aggregator, logits, given = an_aggregator(identifier, 3, random)
    logits = size * np.sign(logits)
    if "averages" in given:
        given["averages"] = -size * np.sign(given["averages"])
    require_finite(aggregator, logits, given)


@every_aggregator
def test_aggregator_is_finite_for_equal_peers(identifier, random):
    aggregator, logits, given = an_aggregator(identifier, 3, random)
    logits = np.repeat(logits[:, :1], 3, axis=1)
    if "features" in given:
        given["features"] = given["features"][:1] * 3
    if "averages" in given:
        given["averages"] = logits
    require_finite(aggregator, logits, given)
    # They have nothing to learn from one another, unless the aggregator makes something else.
    if identifier not in ("fully_connected", "pcl"):
        loss = online_loss(aggregator, aggregator(logits, **given), logits)
        assert float(loss) == pytest.approx(0.0, abs=1e-5)


def require_finite(aggregator, logits, given):
    """Raises unless what the aggregator returns, and all of its gradients, are finite."""
    logits = tf.constant(logits)
    aggregator(logits, **given)
    weights = [variable.value for variable in aggregator.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        result = aggregator(logits, **given, training=True)
        loss = online_loss(aggregator, result, logits)
        if "ensemble" in result:
            loss += tf.reduce_mean(tf.reduce_logsumexp(result["ensemble"], axis=-1))
    gradients = [gradient for gradient in tape.gradient(loss, [logits, *weights])]
    assert gradients[0] is not None
    values = [*result.values(), loss, *(each for each in gradients if each is not None)]
    assert all(np.isfinite(value).all() for value in values)


@every_aggregator
@pytest.mark.usefixtures("mixed_bfloat16")
def test_aggregator_computes_in_float32_under_a_policy_of_low_precision(identifier, random):
    aggregator, logits, given = an_aggregator(identifier, 3, random)
    low = aggregator(logits, **given)
    assert all(weight.dtype == "float32" for weight in aggregator.trainable_weights)
    keras.config.set_dtype_policy("float32")
    exact = mr.aggregators.get(identifier)
    exact(logits, **given)
    exact.set_weights(aggregator.get_weights())
    keras.tree.map_structure(assert_close, low, exact(logits, **given))


@every_aggregator
@pytest.mark.parametrize("training", [False, True])
def test_aggregator_runs_in_a_graph(identifier, training, random):
    aggregator, logits, given = an_aggregator(identifier, 3, random)
    aggregator(logits, **given)
    before = aggregator.get_weights()
    eager = aggregator(logits, **given, training=training)
    aggregator.set_weights(before)
    graph = tf.function(lambda z, rest: aggregator(z, **rest, training=training), autograph=False)
    keras.tree.map_structure(assert_close, graph(logits, given), eager)


@pytest.mark.parametrize(
    "identifier", [name for name, cls in components("aggregator").items() if cls.learns]
)
def test_learning_aggregator_learns_from_the_loss_of_its_ensemble(identifier, random):
    aggregator, logits, given = an_aggregator(identifier, 3, random)
    labels = random.integers(7, size=4)
    aggregator(logits, **given)
    with tf.GradientTape() as tape:
        ensemble = aggregator(logits, **given, training=True)["ensemble"]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, ensemble)
    weights = aggregator.trainable_variables
    gradients = tape.gradient(loss, [variable.value for variable in weights])
    assert gradients
    # A bias before batch normalization changes nothing.
    gradients = {
        variable.path: np.abs(gradient).max()
        for variable, gradient in zip(weights, gradients, strict=True)
        if not (identifier == "one" and variable.path.endswith("gate/bias"))
    }
    assert min(gradients.values()) > 1e-4, gradients


# Schedules


def example_schedule(identifier):
    return mr.schedules.get(identifier, **example_arguments("schedule", identifier))


@every_schedule
def test_schedule_survives_its_config(identifier, round_trip):
    schedule = example_schedule(identifier)
    again = round_trip(schedule)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert [float(again(step)) for step in range(12)] == [float(schedule(s)) for s in range(12)]


@every_schedule
def test_schedule_stays_at_its_end(identifier):
    schedule = example_schedule(identifier)
    assert len({float(schedule(step)) for step in (10, 11, 10**6)}) == 1


@every_schedule
def test_schedule_is_a_float32_scalar_in_a_graph(identifier):
    schedule = example_schedule(identifier)
    value = tf.function(schedule, autograph=False)(tf.constant(7, "int64"))
    assert (value.dtype, value.shape) == (tf.float32, ())
    assert_close(value, schedule(7), rtol=1e-6, atol=0)


@every_schedule
def test_schedule_drives_a_learning_rate(identifier):
    schedule = example_schedule(identifier)
    variable = keras.Variable(1.0)
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.constant(1.0)])
    assert_close(variable, 1.0 - schedule(0) - schedule(1))
