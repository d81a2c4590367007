"""Checks of constructor arguments, which say what was expected and what came."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def require_integer(name: str, value: Any, least: int = 1, *, optional: bool = False) -> int | None:
    """Returns an argument as an `int`, or `None` where it is optional.

    Args:
        name: Name of the argument.
        value: What came. NumPy's integers count, `True` and `False` do not.
        least: The smallest integer that is valid. Defaults to 1.
        optional: Whether `None` is valid too. Defaults to `False`.

    Raises:
        ValueError: If the argument is something else.
    """
    if optional and value is None:
        return None
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (whole and value >= least):
        expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
        expected = f"None or {expected}" if optional else expected
        raise ValueError(f"{name} must be {expected}. Received: {name}={value!r}")
    return int(value)


def is_number(value: Any) -> bool:
    """Returns whether an argument is a finite number, of Python or NumPy; a bool is none."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return real and math.isfinite(value)


def require_bool(name: str, value: Any) -> bool:
    """Returns an argument that is `True` or `False`, or raises a `ValueError`."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False. Received: {name}={value!r}")
    return value


def require_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Returns an argument that is one of the names, or raises a `ValueError` that lists them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}. Received: {name}={value!r}")
    return value
