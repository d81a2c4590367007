"""The fuzz program: what it draws, how it judges, and a few combinations that it trains."""

import dataclasses

import keras
import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components


@pytest.fixture
def fuzz():
    from benchmarks.checks import fuzz

    return fuzz


@pytest.fixture
def draw(fuzz):
    return fuzz.fuzz_combinations.draw


@pytest.fixture
def combination(draw):
    return draw(0, 0)


def components_in(value):
    """Yields every component of a combination."""
    if dataclasses.is_dataclass(value):
        if hasattr(value, "identifier"):
            yield value
        value = vars(value)
    if isinstance(value, dict):
        for part in value.values():
            yield from components_in(part)


def test_three_hundred_combinations_have_everything_that_is_registered(fuzz, draw):
    combinations = [draw(0, number) for number in range(300)]
    drawn = {(one.kind, one.identifier) for each in combinations for one in components_in(each)}
    for kind in ("loss", "adapter", "aggregator", "schedule"):
        assert {name for of, name in drawn if of == kind} == set(components(kind))
    for name, wanted in (("policy", "POLICIES"), ("batch", "BATCHES"), ("classes", "CLASSES")):
        values = {getattr(one, name) for one in combinations}
        assert values == set(getattr(fuzz.fuzz_combinations, wanted))
    assert len({str(one) for one in combinations}) == 300


def test_a_combination_is_a_function_of_seed_and_number(draw):
    assert draw(3, 17) == draw(3, 17)
    assert draw(3, 17) != draw(4, 17)


def test_a_new_component_is_drawn(draw, monkeypatch):
    from modreduce_keras import registry

    @mr.register("loss", "fuzzed")
    class Fuzzed(mr.losses.KD):
        """A loss that was not there before."""

    try:
        losses = [draw(0, number).teaching for number in range(2 * len(components("loss")))]
        assert "fuzzed" in {teaching.loss.identifier for teaching in losses if teaching}
    finally:
        registry._components["loss"].pop("fuzzed")


def raised(function, *arguments):
    """Returns the error of a call."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("no error")


def ours(message=None):
    """Returns an error that the package raises."""
    error = raised(mr.losses.get, "nothing")
    if message:
        error.args = (message,)
    return error


def trained(fuzz, logs=(1.0,), weights=(0.5, 1.0), begun=(0.0, np.nan)):
    return fuzz.Trained([{"loss": value} for value in logs], [np.array(begun)], [np.array(weights)])


def test_an_error_of_the_package_is_a_refusal(fuzz):
    fuzz.require_refusal(ours(), ours())


def test_what_is_no_refusal(fuzz):
    raw, other = raised(keras.layers.Dense, -1), raised(lambda: [].missing)
    # An error of Python inside the package, and an error of Keras with the package's words.
    python, wrapped = raised(mr.ops.flatten, 1), ours()
    wrapped.__cause__ = raw
    advice = ours("Could not automatically infer the output shape")
    cases = [
        (raw, ours(), "not an error of the package: ValueError"),
        (other, ours(), "not an error of the package: AttributeError"),
        (python, python, "not an error of the package: AttributeError"),
        (wrapped, wrapped, "not an error of the package: ValueError"),
        (ours(), trained(fuzz), "eagerly only"),
        (ours(), ours("something else"), "another error in a graph: ValueError: something else"),
        (ours(), RuntimeError(str(ours())), "another error in a graph: RuntimeError"),
        (advice, advice, "advice to authors of layers"),
    ]
    for eager, graph, message in cases:
        with pytest.raises(fuzz.FaultError, match=message):
            fuzz.require_refusal(eager, graph)


def test_equal_trainings_say_how_far_they_are_apart(fuzz):
    own = trained(fuzz)
    assert fuzz.require_equal(own, own, 1e-4) == 0.0
    assert fuzz.require_equal(own, trained(fuzz, logs=(1.00001,)), 1e-4) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"logs": (np.inf,)}, "not finite in a graph: .*loss"),
        ({"weights": (np.inf, 1.0)}, "not finite in a graph: variables"),
        ({"logs": (1.1,)}, "loss is 1 eagerly, 1.1 in a graph"),
        ({"weights": (0.51, 1.0)}, "move differently in a graph: relative 2.0e-02"),
        ({"begun": (0.1, np.nan)}, "weights at the beginning"),
    ],
)
def test_trainings_that_differ(fuzz, other, message):
    with pytest.raises(fuzz.FaultError, match=message):
        fuzz.require_equal(trained(fuzz), trained(fuzz, **other), 1e-4)


def test_the_tables_count_refusals_by_place_and_tell_how_to_repeat_a_fault(fuzz, draw):
    held = fuzz.Outcome(dataclasses.replace(draw(0, 0), policy="float32"), fuzz.HELD, apart=2e-6)
    refused = fuzz.Outcome(held.combination, fuzz.REFUSED, "classes must fit", "losses/a.py:1")
    drawn = dataclasses.replace(draw(5, 17), policy="mixed_bfloat16")
    fault = fuzz.Outcome(drawn, fuzz.FAULT, "not finite", "losses/b.py:2")
    made = fuzz.table([held, refused, refused, fault])
    assert made[2] == "| float32 | 1 | 2 | 0 | 2e-06 |"
    assert "| 2 | losses/a.py:1 | classes must fit |" in made
    assert made[-3:-1] == [
        "FAULT not finite (losses/b.py:2)",
        "  python -m benchmarks.checks.fuzz --seed=5 --first=17 --combinations=1",
    ]
    assert "seed=5, number=17, policy=" in made[-1]


@pytest.mark.parametrize("eagerly", [True, False])
def test_an_attempt_returns_the_error(fuzz, combination, monkeypatch, eagerly):
    monkeypatch.setattr(fuzz, "train", lambda combination, eagerly: 1 / 0)
    assert isinstance(fuzz.attempt(combination, eagerly=eagerly), ZeroDivisionError)


@pytest.mark.slow
def test_some_combinations_hold_or_are_refused(fuzz):
    outcomes = list(fuzz.fuzz(seed=0, first=4, combinations=6))
    assert not [one for one in outcomes if one.verdict == fuzz.FAULT], fuzz.table(outcomes)
    assert sum(one.verdict == fuzz.HELD for one in outcomes) >= 2
    assert keras.config.dtype_policy().name == "float32"
