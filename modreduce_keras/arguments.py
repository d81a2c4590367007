"""Constructor arguments: checks that say what was expected and came, and what a config holds."""

import inspect
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, overload

import numpy as np


@overload
def require_integer(
    name: str, value: Any, least: int = 1, *, optional: Literal[False] = False
) -> int: ...
@overload
def require_integer(
    name: str, value: Any, least: int = 1, *, optional: Literal[True]
) -> int | None: ...
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


def require_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Returns an argument that is one of the names, or raises a `ValueError` that lists them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}. Received: {name}={value!r}")
    return value


def require_number(
    name: str, value: Any, least: float | None = None, *, above: float | None = None
) -> float:
    """Returns an argument that is a finite number, in a range if one is given.

    Args:
        name: Name of the argument.
        value: What came.
        least: The smallest number that is valid, or `None`.
        above: What it has to be greater than, or `None`.

    Raises:
        ValueError: If the argument is something else.
    """
    low = least is not None and is_number(value) and value < least
    if not is_number(value) or low or (above is not None and value <= above):
        expected = "a finite number"
        expected += "" if least is None else f" of at least {least}"
        expected += "" if above is None else f" above {above}"
        raise ValueError(f"{name} must be {expected}. Received: {name}={value!r}")
    return value


def require_sizes(
    name: str, value: Any, expected: str, number: int | None = None
) -> tuple[int, ...]:
    """Returns an argument that is a sequence of positive integers as a tuple.

    Args:
        name: Name of the argument.
        value: What came.
        expected: What the sizes do, for the message.
        number: How many there must be; `None` for at least one.

    Raises:
        ValueError: If the argument is something else.
    """
    several = tuple(value) if isinstance(value, (Sequence, np.ndarray)) else ()
    fits = bool(several) and not isinstance(value, str)
    fits = fits and all(is_number(size) and size == int(size) and size > 0 for size in several)
    if not fits or number not in (None, len(several)):
        raise ValueError(
            f"{name} must {expected}, as positive integers. Received: {name}={value!r}"
        )
    return several


def kept(component: Any, base: type, known: Collection[str] = ()) -> dict[str, Any]:
    """Returns the constructor arguments that a component keeps under their own names.

    Args:
        component: An instance.
        base: The base class of its kind. The constructors of the classes below it count.
        known: Names of arguments that the config holds already.
    """
    names: list[str] = []
    for cls in type(component).__mro__:
        if cls is base:
            break
        if "__init__" in vars(cls):
            names += inspect.signature(vars(cls)["__init__"]).parameters
    # Keras stores nothing where the class has that very value already.
    held = {**_plain_attributes(type(component)), **vars(component)}
    return {name: held[name] for name in names if name in held and name not in known}


def _plain_attributes(cls: type) -> dict[str, Any]:
    """Returns the attributes of a class that are values: no methods and no properties."""
    found: dict[str, Any] = {}
    for one in reversed(cls.__mro__):
        found.update(vars(one))
    return {
        name: value
        for name, value in found.items()
        if not (inspect.isroutine(value) or inspect.isdatadescriptor(value))
    }
