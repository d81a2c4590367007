"""Tests of knobs: numbers in the graph that change while a compiled step keeps running."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras import knobs
from modreduce_keras.knobs import Knob


class Dials:
    """An object with a knob of either kind."""

    weight = Knob()
    temperature = Knob(positive=True)

    def __init__(self, weight=1.0, temperature=2.0):
        self.weight, self.temperature = weight, temperature


def test_a_change_between_calls_takes_effect_without_a_new_trace():
    dials, traces = Dials(weight=0.5), []

    @tf.function
    def step(value):
        traces.append(value)
        return dials.weight * value

    assert float(step(tf.constant(4.0))) == 2.0
    dials.weight = 3.0
    assert float(step(tf.constant(4.0))) == 12.0
    assert len(traces) == 1


def test_the_temperature_of_a_compiled_loss_changes_its_value(random):
    teacher, student = random.normal(size=(2, 4, 5)).astype("float32")
    loss = mr.losses.KD(temperature=4.0)
    compiled = tf.function(loss.call)
    before = compiled(tf.constant(teacher), tf.constant(student))
    loss.temperature = 1.0
    after = compiled(tf.constant(teacher), tf.constant(student))
    expected = mr.losses.KD(temperature=1.0).call(teacher, student)
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    assert np.abs(after - before).max() > 1e-2
    assert compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    "schedule",
    [
        mr.schedules.Linear(1.0, 3.0, steps=10),
        keras.saving.serialize_keras_object(mr.schedules.Linear(1.0, 3.0, steps=10)),
        keras.optimizers.schedules.PolynomialDecay(1.0, 10, end_learning_rate=3.0),
    ],
    ids=["instance", "config", "one of Keras"],
)
def test_a_schedule_is_read_at_the_present_step_inside_the_graph(schedule):
    dials = Dials(weight=schedule)
    step = keras.Variable(0, dtype="int64", trainable=False)
    with knobs.bound([dials], lambda: step):
        pass
    read = tf.function(lambda: dials.weight * 1.0)
    values = []
    for now in (0, 5, 10, 20):
        step.assign(now)
        values.append(float(read()))
    assert values == [1.0, 2.0, 3.0, 3.0]
    assert read.experimental_get_tracing_count() == 1


def test_a_schedule_needs_a_step():
    loss = mr.losses.KD(temperature=mr.schedules.Constant(2.0))
    with pytest.raises(ValueError, match="temperature of KD follows a schedule, and a schedule n"):
        loss(np.ones((1, 3)), np.ones((1, 3)))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), True, False, None, [], "kd"])
def test_a_knob_takes_numbers_and_schedules_only(value):
    message = (
        "Unknown schedule" if isinstance(value, str) else "weight of Dials must be a number th"
    )
    with pytest.raises(ValueError, match=message):
        Dials(weight=value)


@pytest.mark.parametrize(("name", "fits"), [("weight", True), ("temperature", False)])
def test_zero_is_a_weight_and_no_temperature(name, fits):
    if fits:
        assert float(getattr(Dials(**{name: 0}), name)) == 0.0
        return
    message = r"temperature of Dials must be a positive number, or a schedule \(one of \['constant'"
    with pytest.raises(ValueError, match=message + r".*Received: temperature=0"):
        Dials(**{name: 0})


def test_a_schedule_has_to_start_at_a_valid_value():
    with pytest.raises(ValueError, match=r"Received: temperature=Linear\(.*\) at step 0"):
        Dials(temperature=mr.schedules.Linear(0.0, 4.0, steps=10))
    assert Dials(weight=mr.schedules.Linear(0.0, 4.0, steps=10))


def test_a_refused_change_leaves_the_knob_as_it_was():
    dials = Dials(temperature=2.0)
    with pytest.raises(ValueError, match="Received: temperature=-1"):
        dials.temperature = -1
    assert float(dials.temperature) == 2.0
    assert knobs.config(dials)["temperature"] == 2.0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1.0, mr.schedules.Constant(1.0)),
        (1.0, "cosine"),
        (mr.schedules.Constant(1.0), 1.0),
        (mr.schedules.Constant(1.0), mr.schedules.Constant(2.0)),
    ],
)
def test_a_knob_stays_a_number_or_the_schedule_it_was(first, second):
    dials = Dials(weight=first)
    message = "weight of Dials cannot change between a number and a schedule.* Build a new Dials"
    with pytest.raises(ValueError, match=message):
        dials.weight = second


@pytest.mark.parametrize("value", [0.9, 1, 0.1, np.float32(0.3), 100.0])
def test_config_gives_the_number_that_was_given(value):
    assert knobs.config(Dials(weight=value))["weight"] == value


def test_config_gives_the_present_value():
    dials = Dials()
    dials.weight = 0.7
    assert knobs.config(dials) == {"weight": 0.7, "temperature": 2.0}
    dials.weight.assign(0.25)
    assert knobs.config(dials)["weight"] == 0.25


def test_config_of_a_schedule_builds_the_same_schedule():
    loss = mr.losses.KD(temperature=mr.schedules.Cosine(4.0, 1.0, steps=10))
    again = mr.losses.get(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()
    step = keras.Variable(5, dtype="int64", trainable=False)
    with knobs.bound([again], lambda: step):
        pass
    assert float(again.temperature) == pytest.approx(2.5, rel=1e-6)


def test_variables_are_those_of_numbers_and_are_not_trained():
    dials = Dials(weight=0.5, temperature=mr.schedules.Constant(2.0))
    (variable,) = knobs.variables(dials)
    assert variable is dials.weight
    assert (variable.trainable, variable.dtype, variable.name) == (False, "float32", "weight")


def test_knobs_are_declared_by_class_and_inherited():
    class MoreDials(Dials):
        margin = Knob()

    assert list(knobs.declared(MoreDials.__new__(MoreDials))) == ["weight", "temperature", "margin"]
    assert isinstance(Dials.weight, Knob)
    assert (Dials.weight.positive, Dials.temperature.positive) == (False, True)


def test_two_objects_do_not_share_a_knob():
    first, second = Dials(weight=1.0), Dials(weight=2.0)
    first.weight = 5.0
    assert (float(first.weight), float(second.weight)) == (5.0, 2.0)


def test_both_replicas_read_a_change(two_replicas):
    with two_replicas.scope():
        dials = Dials(weight=1.0)

    @tf.function
    def replicated():
        values = two_replicas.run(lambda: dials.weight * 2.0)
        return two_replicas.experimental_local_results(values)

    assert [float(value) for value in replicated()] == [2.0, 2.0]
    dials.weight = 3.0
    assert [float(value) for value in replicated()] == [6.0, 6.0]


def test_a_schedule_without_its_arguments_is_refused():
    with pytest.raises(ValueError, match=r"A schedule needs its arguments.*Received: 'cosine'"):
        mr.losses.KD(temperature="cosine")


@pytest.mark.parametrize("value", [{"kind": "linear"}, {"kd": 0.5, "hint": 2.0}, {}])
@pytest.mark.parametrize("name", ["supervised_weight", "temperature", "online_weight"])
def test_a_dict_that_is_no_schedule_is_refused(name, value):
    class Owner:
        pass

    setattr(Owner, name, Knob())
    getattr(Owner, name).__set_name__(Owner, name)
    with pytest.raises(ValueError, match=rf"{name} of Owner must be a num.*Received: {name}=") as e:
        setattr(Owner(), name, value)
    assert ("knowledge={" in str(e.value)) == ("weight" in name)
    schedule = keras.saving.serialize_keras_object(mr.schedules.Linear(0.0, 1.0, steps=10))
    owner = Owner()
    setattr(owner, name, schedule)
    assert isinstance(getattr(owner, f"_{name}_setting"), mr.schedules.Linear)
