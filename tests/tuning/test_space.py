"""Tests of search spaces: names, ranges, defaults, what they give to constructors, and refusals."""

import keras_tuner
import pytest

import modreduce_keras as mr
from modreduce_keras.tuning import Space


@pytest.fixture
def hp():
    return keras_tuner.HyperParameters()


def configs(hp):
    return {one.name: one.get_config() for one in hp.space}


def test_names_ranges_and_defaults_are_those_documented(hp):
    space = Space(hp)
    assert space.temperature() == 4.0
    assert space.weights(["kd"]) == {"kd": 1.0}
    assert space.aggregator(["mutual", "mean"]) == "mutual"
    assert space.schedule(2.0, steps=100).constant == 2.0
    assert space.taps(["a", "b"], ["c", "d"]) == {"student": "b", "teacher": "d"}
    assert space.width() == (8, 16, 32)
    found = configs(hp)
    assert list(found) == [
        "temperature",
        "weight/kd",
        "aggregator",
        "schedule",
        "schedule/part",
        "taps/student",
        "taps/teacher",
        "width",
    ]
    ranges = {name: found[name] for name in ("temperature", "weight/kd", "schedule/part")}
    assert [(one["min_value"], one["max_value"]) for one in ranges.values()] == [
        (1.0, 20.0),
        (0.01, 10.0),
        (0.1, 1.0),
    ]
    assert [one["sampling"] for one in ranges.values()] == ["log", "log", "linear"]
    assert found["width"]["values"] == [8, 16, 32, 64]
    assert found["schedule"]["values"] == [
        *("constant", "linear", "cosine", "sigmoid_ramp_up", "cut_off")
    ]


def test_logarithmic_ranges_are_sampled_evenly_in_orders_of_magnitude(hp):
    Space(hp).weights(["kd"], 0.01, 100.0)
    (weight,) = hp.space
    samples = [weight.random_sample(seed) for seed in range(400)]
    below = sum(sample < 1.0 for sample in samples) / len(samples)
    assert below == pytest.approx(0.5, abs=0.1)
    assert 0.01 <= min(samples) <= max(samples) <= 100.0


def test_steps_are_factors(hp):
    Space(hp).temperature(1.0, 16.0, step=2)
    assert list(hp.space[0].values) == pytest.approx([1, 2, 4, 8, 16])


def test_a_prefix_and_other_names_keep_several_apart(hp):
    first, second = Space(hp), Space(hp, "small/")
    first.temperature()
    first.temperature(name="hot")
    second.temperature(default=2.0)
    assert list(configs(hp)) == ["temperature", "hot", "small/temperature"]
    with pytest.raises(ValueError, match=r"pass name=.*Received twice: 'small/temperature'"):
        second.temperature()


def test_weights_take_knowledge_too(hp):
    knowledge = [mr.Response("kd"), mr.Feature("hint", at="stage1", name="early")]
    assert list(Space(hp).weights(knowledge)) == ["kd", "early"]
    assert list(Space(hp).weights("kd")) == ["kd"]


@pytest.mark.parametrize(
    ("kind", "part", "expected"),
    [
        ("constant", None, [2.0, 2.0, 2.0]),
        ("linear", 0.4, [0.0, 1.0, 2.0]),
        ("cosine", 0.4, [0.0, 1.0, 2.0]),
        ("sigmoid_ramp_up", 0.4, [2 * 2.718281828**-5, 2 * 2.718281828**-1.25, 2.0]),
        ("cut_off", 0.4, [0.0, 0.0, 2.0]),
    ],
)
def test_a_schedule_goes_to_its_end_in_its_part_of_the_training(hp, kind, part, expected):
    hp.values = {"schedule": kind} | ({"schedule/part": part} if part else {})
    schedule = Space(hp).schedule(2.0, steps=100)
    assert [float(schedule(step)) for step in (0, 20, 40)] == pytest.approx(expected, abs=1e-5)


def test_the_part_of_a_schedule_is_searched_only_where_there_is_one(hp):
    Space(hp).schedule(1.0, steps=10)
    assert "schedule/part" not in hp.values
    assert "schedule/part" in configs(hp)
    other = keras_tuner.HyperParameters()
    Space(other).schedule(1.0, steps=10, kinds=["constant"])
    assert list(configs(other)) == ["schedule"]
    moving = keras_tuner.HyperParameters()
    assert Space(moving).schedule(1.0, steps=10, kinds=["linear"]).steps == 3


def test_widths_double_from_stage_to_stage(hp):
    hp.values = {"width": 12}
    assert Space(hp).width(6, 30, stages=4, default=24) == (12, 24, 48, 96)
    assert configs(hp)["width"]["values"] == [6, 12, 24]
    assert configs(hp)["width"]["default"] == 24


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.temperature(0.0), ValueError, "least must be a finite number above 0.0"),
        (lambda s: s.temperature(5.0, 5.0), ValueError, "most must be a finite number above 5.0"),
        (lambda s: s.temperature(5.0), ValueError, "default must lie from least to most"),
        (lambda s: s.temperature(step=1.0), ValueError, "step must be a finite number above 1.0"),
        (lambda s: s.temperature(name=""), TypeError, "name must be a string"),
        (lambda s: s.weights([]), TypeError, "at least one name of a knowledge"),
        (lambda s: s.weights([3]), TypeError, "at least one name of a knowledge"),
        (lambda s: s.weights(["kd", "kd"]), ValueError, "Received twice: 'weight/kd'"),
        (lambda s: s.aggregator("mean"), TypeError, "names must be a list"),
        (lambda s: s.aggregator([]), TypeError, "names must be a list of at least one name"),
        (lambda s: s.aggregator(["mean", "mean"]), ValueError, "names must not name one twice"),
        (lambda s: s.aggregator(["median"]), ValueError, "Unknown aggregator.*'median'"),
        (lambda s: s.schedule(-1.0, steps=9), ValueError, "end must be a finite number of at"),
        (lambda s: s.schedule(1.0, steps=0), ValueError, "steps must be a positive integer"),
        (
            lambda s: s.schedule(1.0, steps=9, kinds=["stairs"]),
            ValueError,
            r"kinds must be among .*\['stairs'\]",
        ),
        (lambda s: s.taps([], ["a"]), TypeError, "student must be a list of at least one"),
        (lambda s: s.taps(["a"], "a"), TypeError, "teacher must be a list of at least one"),
        (lambda s: s.width(8, 4), ValueError, "most must be at least 8"),
        (lambda s: s.width(default=9), ValueError, r"default must be one of \[8, 16, 32, 64\]"),
        (lambda s: s.width(stages=0), ValueError, "stages must be a positive integer"),
    ],
)
def test_what_makes_no_space_is_refused(hp, call, error, message):
    with pytest.raises(error, match=message):
        call(Space(hp))
    assert configs(hp).keys() <= {"weight/kd", "taps/student"}


def test_a_space_needs_hyperparameters(hp):
    with pytest.raises(TypeError, match="hp must be the hyperparameters that build receives"):
        Space({})
    with pytest.raises(TypeError, match=r"prefix must be a string.*3"):
        Space(hp, 3)
