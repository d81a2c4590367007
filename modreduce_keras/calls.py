"""Calls: a call with the wrong arguments is answered with the call that is meant."""

import difflib
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import keras

_SPECS = map(find_spec, (__name__, "keras", "tensorflow"))
_LIBRARIES = tuple(f"{Path(spec.origin).parent}{os.sep}" for spec in _SPECS if spec and spec.origin)
Function = TypeVar("Function", bound=Callable[..., Any])
Answer = Callable[[Mapping[str, Any]], str | None]
"""From the arguments of a call, by name, to the call that is meant; `None` if it does not know."""


def by_name(
    written: str,
    *,
    why: str,
    meant: Answer = lambda given: None,
    former: Callable[[tuple[Any, ...]], dict[str, Any] | None] = lambda given: None,
) -> Any:
    """Makes a function, or a constructor, refuse arguments by position and of unknown names.

    Args:
        written: The call by name, for messages.
        why: Why arguments are not taken by position.
        meant: Answers calls with arguments of unknown names.
        former: Returns the arguments by name of a call by position as version 0.1 had it, `None`
            where it is not surely one. Such calls work, with a `DeprecationWarning`.

    Returns:
        A decorator that keeps the signature, whose arguments are keyword-only.
    """

    def decorate(function: Function) -> Function:
        parameters = list(inspect.signature(function).parameters)
        held = 1 if parameters[0] == "self" else 0

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            owner = type(args[0]).__name__ if held else function.__name__
            known = former(args[held:]) if len(args) > held else None
            if known is not None and not set(known) & set(kwargs):
                taken = ", ".join(f"{name}={shown(value)}" for name, value in known.items())
                warnings.warn(
                    f"{owner} takes its arguments by name, {why}: {written}. By position they are "
                    f"still taken as in version 0.1, and not in the next one: {taken}",
                    DeprecationWarning,
                    stacklevel=stacklevel_of_user(),
                )
                return function(*args[:held], **known, **kwargs)
            if len(args) > held:
                received = ", ".join(shown(one) for one in args[held:])
                raise TypeError(
                    f"{owner} takes its arguments by name, {why}: {written}. "
                    f"Received by position: {received}"
                )
            require_known(owner, parameters[held:], kwargs, meant)
            return function(*args, **kwargs)

        return cast(Function, called)

    return decorate


def answering(meant: Answer) -> Any:
    """Makes a function, a method or a constructor answer arguments of unknown names."""

    def decorate(function: Function) -> Function:
        parameters = list(inspect.signature(function).parameters)
        held = 1 if parameters[0] == "self" else 0
        is_constructor = function.__name__ == "__init__"

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            by_position = dict(zip(parameters[held:], args[held:], strict=False))
            owner = type(args[0]).__name__ if is_constructor else function.__name__
            require_known(owner, parameters[held:], {**by_position, **kwargs}, meant)
            return function(*args, **kwargs)

        return cast(Function, called)

    return decorate


def stacklevel_of_user() -> int:
    """Returns the `stacklevel` with which `warnings.warn` names the line of the user.

    That is the first line outside of this package, Keras and TensorFlow, however many wrappers,
    constructors and callbacks are between. Call it where `warnings.warn` is called. From Python
    3.12 on, `skip_file_prefixes` of `warnings.warn` does this.
    """
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame, level = frame.f_back, level + 1
    return level


def of_model(owner: str) -> Answer:
    """Returns the answer to `student=`, of a constructor whose argument is `model`."""

    def meant(given: Mapping[str, Any]) -> str | None:
        return f"{owner}(model=...)" if "student" in given else None

    return meant


def of_names(names: Iterable[str], answer: str) -> Answer:
    """Returns the answer to names that other libraries have for an argument."""
    known = frozenset(names)
    return lambda given: None if known.isdisjoint(given) else answer


def require_known(
    owner: str, known: Iterable[str], given: Mapping[str, Any], meant: Answer = lambda given: None
) -> None:
    """Raises a `TypeError` if arguments have names that a function does not know.

    Args:
        owner: What is called.
        known: Names of its arguments.
        given: What came, by name.
        meant: Returns the call that is meant, or `None`.
    """
    known = list(known)
    unknown = {name: value for name, value in given.items() if name not in known}
    if not unknown:
        return
    received = ", ".join(f"{name}={shown(value)}" for name, value in unknown.items())
    answer = meant(given)
    if answer is not None:
        names = f"argument{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}"
        raise TypeError(f"{owner} has no {names}: write {answer}. Received: {received}")
    name = next(iter(unknown))
    raise TypeError(
        f"{owner} has no argument {name!r}.{did_you_mean(name, known)} Its arguments are {known}. "
        f"Received: {received}"
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns a question that names what a misspelt word is close to, or `""`."""
    by_spelling = {name.lower(): name for name in known}
    word = word.lower()
    holding = [one for one in by_spelling if len(word) > 2 and word in one]
    close = difflib.get_close_matches(word, by_spelling, n=3)
    names = [by_spelling[one] for one in dict.fromkeys([*holding, *close])][:3]
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def listed(names: Sequence[str], most: int = 16) -> str:
    """Returns names for a message: the first ones, and how many there are besides."""
    more = f" and {len(names) - most} others" if len(names) > most else ""
    return f"{list(names[:most])}{more}"


def shown(value: Any) -> str:
    """Returns what messages call a value: short, also of models and arrays."""
    if isinstance(value, keras.Layer):
        return f"the {'model' if isinstance(value, keras.Model) else 'layer'} {value.name!r}"
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, (int, float)):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (str, int, float, type(None))):
        return repr(value)
    name = getattr(value, "name", None)
    if isinstance(name, str):
        return f"{type(value).__name__} {name!r}"
    written = repr(value)
    return f"an object of {type(value).__name__}" if " object at 0x" in written else written
