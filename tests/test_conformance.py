"""What holds for every registered aggregator, schedule and model, over the registry."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_close

import modreduce_keras as mr
from modreduce_keras.registry import components

every_aggregator = pytest.mark.parametrize("identifier", components("aggregator"))
every_schedule = pytest.mark.parametrize("identifier", components("schedule"))


# Aggregators


@every_aggregator
@pytest.mark.parametrize("peers", [2, 3, 5])
def test_aggregator_gives_targets_and_ensemble_for_any_number_of_peers(
    identifier, peers, round_trip, random
):
    aggregator = mr.aggregators.get(identifier)
    logits = random.normal(size=(4, peers, 7)).astype("float32")
    result = aggregator(logits)
    assert result["targets"].shape == (4, peers, 7)
    assert result["targets"].dtype == tf.float32
    if "ensemble" in result:
        assert result["ensemble"].shape == (4, 7)
    assert set(result) - {"ensemble"} == {"targets", *aggregator.logs}
    assert all(result[log].shape == (peers,) for log in aggregator.logs)
    again = round_trip(aggregator)
    again.set_weights(aggregator.get_weights())
    keras.tree.map_structure(np.testing.assert_array_equal, again(logits), result)


@every_aggregator
def test_aggregator_treats_each_example_on_its_own(identifier, random):
    aggregator = mr.aggregators.get(identifier)
    logits = random.normal(size=(5, 3, 7)).astype("float32")
    targets, order = aggregator(logits)["targets"], random.permutation(5)
    assert_close(aggregator(logits[order])["targets"], tf.gather(targets, order))
    assert_close(aggregator(logits[2:3])["targets"], targets[2:3])


@pytest.mark.parametrize(
    "identifier", [name for name, cls in components("aggregator").items() if cls.learns]
)
def test_learning_aggregator_learns_from_the_loss_of_its_ensemble(identifier, random):
    aggregator = mr.aggregators.get(identifier)
    logits = random.normal(size=(4, 3, 7)).astype("float32")
    with tf.GradientTape() as tape:
        ensemble = aggregator(logits)["ensemble"]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(np.arange(4), ensemble)
    gradients = tape.gradient(loss, [v.value for v in aggregator.trainable_variables])
    assert gradients
    assert all(np.abs(gradient).max() > 1e-4 for gradient in gradients)


# Schedules


def example_schedule(identifier):
    return mr.schedules.get(identifier, **components("schedule")[identifier].example_arguments)


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
    value = tf.function(schedule)(tf.constant(7, "int64"))
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


# Models


# The deepest one takes seconds to build: models/test_resnet.py does it once for both.
@pytest.mark.parametrize(
    "identifier", [name for name in components("model") if name != "resnet110"]
)
def test_model_ends_in_logits_and_has_its_taps(identifier):
    model = mr.models.get(identifier, num_classes=5)
    head = model.layers[-1]
    assert (head.name, head.units, head.activation) == ("logits", 5, keras.activations.linear)
    assert model.name == identifier
    specs = mr.TapReader(model, ["stage1", "stage2", "stage3", "embedding"]).specs(model.input)
    assert specs.logits.shape == (None, 5)
    assert specs.features["embedding"].shape == (None, specs.features["stage3"].shape[-1])
