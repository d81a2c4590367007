"""Tests of arguments: what passes the checks, what the errors say, what a config holds."""

import re

import numpy as np
import pytest

import modreduce_keras as mr
from modreduce_keras import arguments
from modreduce_keras.arguments import is_number, require_choice, require_integer


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(7)])
def test_integers_of_python_and_numpy_become_int(value):
    result = require_integer("units", value)
    assert type(result) is int
    assert result == value


def test_none_is_an_integer_where_it_is_optional_only():
    assert require_integer("units", None, optional=True) is None
    with pytest.raises(ValueError, match=r"units must be a positive integer\. Received: units="):
        require_integer("units", None)


@pytest.mark.parametrize("value", [True, 0, -1, 2.0, np.float32(2), "2", np.bool_(True)])
def test_what_is_no_positive_integer_is_refused(value):
    received = re.escape(f"Received: units={value!r}")
    with pytest.raises(ValueError, match=rf"^units must be a positive integer\. {received}$"):
        require_integer("units", value)
    with pytest.raises(ValueError, match=r"^units must be None or a positive integer\."):
        require_integer("units", value, optional=True)


@pytest.mark.parametrize("least", [0, 2])
def test_the_least_integer_is_valid_and_the_one_below_is_not(least):
    assert require_integer("units", least, least) == least
    with pytest.raises(ValueError, match=f"units must be an integer of at least {least}. Received"):
        require_integer("units", least - 1, least)


@pytest.mark.parametrize("value", [0, -1.5, np.int32(3), np.float32(0.5)])
def test_finite_numbers_of_python_and_numpy_are_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), np.bool_(True), 1j])
def test_everything_else_is_none(value):
    assert not is_number(value)


def test_a_choice_is_one_of_the_names():
    assert require_choice("variant", "paper", ("paper", "reference")) == "paper"
    for value in ("other", None, np.array(["paper"])):
        with pytest.raises(ValueError) as error:
            require_choice("variant", value, ("paper", "reference"))
        assert str(error.value) == (
            f"variant must be one of ['paper', 'reference']. Received: variant={value!r}"
        )


class Parent(mr.losses.Loss):
    def __init__(self, *, first=1, given=2, name="parent", reduction="sum"):
        super().__init__(name=name, reduction=reduction)
        self.first, self.other = first, given


class Child(Parent):
    def __init__(self, second, *rest, **options):
        super().__init__(**options)
        self.second = second


def test_config_holds_what_is_kept_under_its_own_name():
    child = Child(3, first=4)
    assert arguments.kept(child, mr.losses.Loss) == {
        "second": 3,
        "first": 4,
        "name": "parent",
        "reduction": "sum",
    }
    assert arguments.kept(child, Parent, known=["name"]) == {"second": 3}
    assert child.get_config() == {
        "second": 3,
        "first": 4,
        "name": "parent",
        "reduction": "sum",
    }
