"""Tests of every schedule against NumPy, and of every error."""

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras import schedules

STEPS = np.arange(0, 61, 3)
PROGRESS = np.minimum(STEPS / 40, 1.0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.Constant(0.5), np.full(len(STEPS), 0.5)),
        (schedules.Linear(2.0, -1.0, steps=40), 2.0 - 3.0 * PROGRESS),
        (schedules.Cosine(4.0, 1.0, steps=40), 1.0 + 1.5 * (1 + np.cos(np.pi * PROGRESS))),
        (schedules.SigmoidRampUp(steps=40), np.exp(-5 * (1 - PROGRESS) ** 2)),
        (schedules.SigmoidRampUp(3.0, steps=40), 3 * np.exp(-5 * (1 - PROGRESS) ** 2)),
        (schedules.Exponential(0.01, 0.7, steps=40), 0.01 * 70**PROGRESS),
        (schedules.Exponential(-8.0, -1.0, steps=40), -8.0 * 0.125**PROGRESS),
        (
            schedules.Exponential(0.01, 0.7, steps=40, stairs=4),
            0.01 * 70 ** (np.minimum(STEPS // 10, 4) / 4),
        ),
        (schedules.CutOff(0.7, steps=42), np.where(STEPS < 42, 0.0, 0.7)),
        (schedules.CutOff(0.7, steps=42, before=0.1), np.where(STEPS < 42, 0.1, 0.7)),
        (
            schedules.Piecewise([9, 30, 50], [8.0, 4.0, 2.0, 1.0]),
            np.select([STEPS < 9, STEPS < 30, STEPS < 50], [8.0, 4.0, 2.0], 1.0),
        ),
        (schedules.Piecewise([], [8.0]), np.full(len(STEPS), 8.0)),
        (schedules.Polynomial(0.1, 0.8, steps=40), 0.8 - 0.7 * (1 - PROGRESS) ** 3),
        (
            schedules.Polynomial(0.0, 0.9, steps=20, begin=12, power=2),
            0.9 - 0.9 * (1 - np.clip((STEPS - 12) / 20, 0, 1)) ** 2,
        ),
    ],
    ids=repr,
)
def test_schedule_equals_its_formula(schedule, expected):
    np.testing.assert_allclose([float(schedule(s)) for s in STEPS], expected, rtol=1e-5, atol=1e-6)


# With 41 stairs, k / 41 · 41 rounds to less than k in float32 for some k.
@pytest.mark.parametrize(("stairs", "per_stair"), [(24, 7820), (41, 100), (61, 1)])
def test_a_stair_begins_exactly_at_its_step(stairs, per_stair):
    weight = schedules.Exponential(0.01, 0.7, steps=stairs * per_stair, stairs=stairs)
    for stair in range(1, stairs + 1):
        first = per_stair * stair
        before, after = (0.01 * 70 ** (s / stairs) for s in (stair - 1, stair))
        np.testing.assert_allclose([weight(first - 1), weight(first)], [before, after], rtol=1e-5)


@pytest.mark.parametrize("steps", [0, -5, float("nan")])
@pytest.mark.parametrize(
    "build",
    [
        lambda steps: schedules.Linear(0.0, 1.0, steps=steps),
        lambda steps: schedules.Cosine(0.0, 1.0, steps=steps),
        lambda steps: schedules.SigmoidRampUp(steps=steps),
        lambda steps: schedules.Exponential(0.1, 1.0, steps=steps),
        lambda steps: schedules.CutOff(1.0, steps=steps),
        lambda steps: schedules.Polynomial(0.0, 1.0, steps=steps),
    ],
    ids=["linear", "cosine", "sigmoid_ramp_up", "exponential", "cut_off", "polynomial"],
)
def test_steps_that_are_not_positive_are_refused(build, steps):
    message = f"steps must be a positive number of training steps. Received: steps={steps}"
    with pytest.raises(ValueError, match=message):
        build(steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": -1}, "begin must be a finite number of at least 0.0. Received: begin=-1"),
        ({"power": 0}, "power must be a finite number above 0.0. Received: power=0"),
    ],
    ids=["begin", "power"],
)
def test_a_polynomial_needs_a_curve_that_exists(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedules.Polynomial(0.0, 1.0, steps=10, **arguments)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_exponential_needs_ends_of_one_sign(start, end):
    with pytest.raises(ValueError, match=f"both be positive or both .*start={start}, end={end}"):
        schedules.Exponential(start, end, steps=10)


@pytest.mark.parametrize("stairs", [0, -1])
def test_exponential_needs_a_positive_number_of_stairs(stairs):
    with pytest.raises(ValueError, match=f"stairs must be None or a positive .*stairs={stairs}"):
        schedules.Exponential(0.1, 1.0, steps=10, stairs=stairs)


def test_piecewise_needs_one_value_more_than_boundaries():
    with pytest.raises(ValueError, match="Received: 2 values and 2 boundaries"):
        schedules.Piecewise([10, 20], [1.0, 2.0])


@pytest.mark.parametrize("boundaries", [[20, 10], [10, 10], [-5, 10]])
def test_piecewise_needs_ascending_boundaries(boundaries):
    with pytest.raises(ValueError, match=rf"must ascend .*Received: boundaries=\[{boundaries[0]}"):
        schedules.Piecewise(boundaries, [1.0, 2.0, 3.0])


def test_schedules_are_told_apart_by_their_arguments():
    assert repr(schedules.Linear(0.0, 1.0, steps=10)) == "Linear(start=0.0, end=1.0, steps=10)"


def test_a_schedule_of_the_users_own_needs_its_value_only():
    class Squared(schedules.Schedule):
        def __init__(self, factor):
            self.factor = factor

        def value(self, step):
            return self.factor * keras.ops.square(step)

    assert float(Squared(0.5)(4)) == 8.0
    assert Squared(0.5).get_config() == {"factor": 0.5}


def test_value_is_to_be_written():
    with pytest.raises(NotImplementedError):
        mr.schedules.Schedule()(0)


def test_all_schedules_are_public():
    names = {type_.__name__ for type_ in mr.registry.components("schedule").values()}
    assert set(schedules.__all__) == {"Schedule", "get", *names}
