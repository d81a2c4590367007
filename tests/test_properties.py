"""Properties of schedules, constructors, a step and the data, over drawn shapes and numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import modreduce_keras as mr
from modreduce_keras import knobs
from modreduce_keras.registry import components
from tests.support.inputs.drawn import SYMMETRIC, batches, classes, few, seeds, some

# Schedules


numbers = st.floats(-100.0, 100.0, width=32)
lengths = st.integers(1, 10_000)


@st.composite
def schedules(draw):
    """Draws a schedule between two values, and those."""
    start, end, steps = draw(numbers), draw(numbers), draw(lengths)
    kind = draw(
        st.sampled_from(
            ["linear", "cosine", "sigmoid_ramp_up", "cut_off", "exponential", "polynomial"]
        )
    )
    if kind == "sigmoid_ramp_up":
        return mr.schedules.SigmoidRampUp(end, steps=steps), 0.0, end
    if kind == "cut_off":
        return mr.schedules.CutOff(end, steps=steps, before=start), start, end
    if kind == "exponential":
        start, end = abs(start) + 0.01, abs(end) + 0.01
        stairs = draw(st.one_of(st.none(), st.integers(1, 30)))
        return mr.schedules.Exponential(start, end, steps=steps, stairs=stairs), start, end
    return mr.schedules.get(kind, start=start, end=end, steps=steps), start, end


@some
@given(drawn=schedules(), part=st.floats(0.0, 3.0))
def test_a_schedule_stays_between_its_ends_and_survives_its_config(drawn, part):
    schedule, start, end = drawn
    low, high = min(start, end), max(start, end)
    margin = 1e-4 * max(1.0, abs(low), abs(high))
    value = float(schedule(part * schedule.steps))
    assert low - margin <= value <= high + margin
    assert float(schedule(2.0 * schedule.steps)) == pytest.approx(end, abs=margin)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    assert float(again(part * schedule.steps)) == value
    # What a knob looks at are the smallest and the largest value.
    seen = [float(schedule(step)) for step in schedule.landmarks()]
    assert min(seen) - margin <= value <= max(seen) + margin


@some
@given(
    boundaries=st.lists(st.integers(0, 1000), unique=True, max_size=5).map(sorted),
    seed=seeds,
    step=st.integers(0, 1200),
)
def test_piecewise_gives_the_value_of_the_last_boundary_passed(boundaries, seed, step):
    values = np.random.default_rng(seed).normal(size=len(boundaries) + 1).tolist()
    schedule = mr.schedules.Piecewise(boundaries, values)
    expected = values[sum(step >= boundary for boundary in boundaries)]
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)
    assert {float(schedule(one)) for one in schedule.landmarks()} <= {*map(np.float32, values)}


# Constructors


KNOBS = [
    (n, k) for n, cls in components("loss").items() for k in knobs.declared(object.__new__(cls))
]
wrong_numbers = st.one_of(
    st.floats(max_value=-1e-30, allow_infinity=True),
    st.sampled_from([np.nan, np.inf, True, False, None, "1.0", "half", [1.0], {}, 1j, object()]),
)
no_positive_integers = st.one_of(
    st.integers(max_value=0),
    st.floats(),
    st.sampled_from([True, "3", [3], (), object()]),
)
INTEGERS = [
    (mr.adapters.ContrastiveMemory, "samples", {}),
    (mr.adapters.ContrastiveMemory, "negatives", {"samples": 10}),
    (mr.adapters.get("contrastive_queue").__class__, "units", {}),
    (mr.aggregators.OKDDip, "units", {}),
    (mr.aggregators.get("codistillation").__class__, "refresh", {}),
    (mr.models.convnet, "num_classes", {}),
    (mr.callbacks.Resume, "keep", {"directory": "run"}),
    (mr.callbacks.PeerMonitor, "every", {"data": np.ones((2, 3))}),
]


@pytest.mark.parametrize(("identifier", "name"), KNOBS)
@few
@given(value=wrong_numbers)
def test_a_number_that_makes_no_sense_is_refused_by_name(identifier, name, value):
    with pytest.raises((ValueError, TypeError), match=rf"{name}\b"):
        mr.losses.get(identifier, **{name: value})


@few
@given(value=wrong_numbers.filter(lambda value: value is not None))
def test_a_weight_that_makes_no_sense_is_refused_by_name(value):
    with pytest.raises((ValueError, TypeError), match=r"weight\b"):
        mr.Response("kd", weight=value)


@pytest.mark.parametrize(("make", "name", "others"), INTEGERS)
@few
@given(value=no_positive_integers)
def test_what_is_no_positive_integer_is_refused_by_name(make, name, others, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*Received: {name}="):
        make(**others, **{name: value})


@pytest.mark.parametrize("name", ["start", "end", "steps"])
@few
@given(
    value=st.sampled_from([np.nan, np.inf, -np.inf, True, None, "1", [1.0], 1j, object()]),
    kind=st.sampled_from(["linear", "cosine", "exponential"]),
)
def test_what_is_no_number_makes_no_schedule(name, value, kind):
    arguments = {"start": 1.0, "end": 2.0, "steps": 10, name: value}
    with pytest.raises(ValueError, match=rf"{name} must be .*Received: .*{name}="):
        mr.schedules.get(kind, **arguments)


positive = st.floats(2.0**-10, 1e4, width=32)


@some
@given(
    temperature=positive,
    weight=st.floats(0.0, 1e4, width=32),
    standardize=st.booleans(),
    average=st.sampled_from([None, "probabilities", "logits"]),
    teacher_weights=st.one_of(st.none(), st.lists(positive, min_size=1, max_size=4)),
    ignore_class=st.one_of(st.none(), st.integers(-2, 255)),
)
def test_a_response_survives_its_config(temperature, weight, standardize, **arguments):
    loss = mr.losses.KD(temperature=temperature, standardize=standardize)
    knowledge = mr.Response(loss, weight=weight, **arguments)
    config = keras.saving.serialize_keras_object(knowledge)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == knowledge.get_config()
    assert keras.saving.serialize_keras_object(again) == config
    assert float(again.weight) == np.float32(weight)
    assert float(again.loss.temperature) == np.float32(temperature)


@settings(few, max_examples=4)
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    number=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 17), st.integers(1, 17), st.integers(1, 3)),
)
def test_a_network_of_any_size_gives_logits_and_its_taps(widths, number, shape):
    model = mr.models.convnet(num_classes=number, widths=widths, input_shape=shape)
    assert model.output_shape == (None, number)
    assert model.get_layer("embedding").output.shape == (None, widths[-1])
    stages = [layer.name for layer in model.layers if layer.name.startswith("stage")]
    assert stages[-1] == f"stage{len(widths)}"


# A step, and the data


def dense(number, name):
    inputs = keras.Input((3,))
    embedding = keras.layers.Dense(2, name="embedding")(inputs)
    return keras.Model(inputs, keras.layers.Dense(number)(embedding), name=name)


@settings(few, max_examples=5)
@given(
    peers=st.integers(2, 5),
    batch=batches,
    number=classes,
    aggregator=st.sampled_from(SYMMETRIC),
    weight=st.floats(0.0, 3.0, width=32),
)
def test_the_loss_of_a_step_is_the_weighted_sum_of_its_terms(
    peers, batch, number, aggregator, weight
):
    random = np.random.default_rng(batch)
    students = [dense(number, f"peer{peer}") for peer in range(peers)]
    distiller = mr.PeerDistiller(students, aggregator=aggregator, online_weight=weight)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, run_eagerly=True)
    x = random.normal(size=(batch, 3)).astype("float32")
    y = random.integers(number, size=batch)
    logs = distiller.train_on_batch(x, y, return_dict=True)
    weights = {name: float(value) for name, value in distiller.term_weights().items()}
    expected = sum(value * logs[name] for name, value in weights.items())
    assert float(logs["loss"]) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert len(weights) == 2 * peers + distiller.aggregator.learns


@settings(few, max_examples=6)
@given(
    samples=st.integers(1, 30),
    seed=st.integers(0, 2**63 - 1),
    buffer_size=st.one_of(st.none(), st.integers(1, 40)),
)
def test_each_epoch_has_every_sample_once_with_its_own_index(samples, seed, buffer_size):
    dataset = mr.data.with_index(tf.data.Dataset.range(samples))

    def epochs():
        shuffled = mr.data.epoch_shuffle(dataset, seed=seed, buffer_size=buffer_size)
        return [
            [int(x["inputs"]) for x in shuffled if x["inputs"] == x["sample_index"]] for _ in "ab"
        ]

    first = epochs()
    assert all(sorted(epoch) == list(range(samples)) for epoch in first)
    assert first == epochs()
