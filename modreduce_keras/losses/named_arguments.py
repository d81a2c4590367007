"""Answers to calls of a loss with arguments that its constructor does not have."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from modreduce_keras import calls, registry


class NamedArguments:
    """A class whose constructor takes its arguments by name, and suggests the right ones.

    A base of its own below those with an `__init__`, whose signature is what tools then show.
    """

    symbols: ClassVar[Mapping[str, str]] = {}
    """Letters that the paper has for arguments, and those arguments: what messages answer them
    with. `T` and `tau` are known to be the temperature."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Returns an instance, or says what is meant by arguments that the constructor lacks."""
        cls._require_arguments(args, kwargs)
        return super().__new__(cls)

    @classmethod
    def argument_named(cls, name: str) -> str | None:
        """Returns the argument of the constructor that a name or a paper's letter stands for."""
        known = inspect.signature(cls).parameters
        name = {"T": "temperature", "tau": "temperature", **cls.symbols}.get(name, name)
        return name if name in known and name not in ("name", "reduction", "dtype") else None

    @classmethod
    def _require_arguments(cls, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        """Raises a `TypeError` that says what is meant by arguments that cannot be taken."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        by_position = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
        by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        kinds = {p.kind for p in parameters}
        if len(args) > len(by_position) and inspect.Parameter.VAR_POSITIONAL not in kinds:
            one = ["temperature"] if len(args) == 1 and "temperature" in by_name else by_name
            meant = dict(zip(one, args[len(by_position) :], strict=False))
            raise TypeError(
                f"{cls.__name__} takes its arguments by name: {cls._call({**meant, **given})}. "
                f"Received by position: {calls.shown(list(args))}"
            )
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            names = [*(p.name for p in by_position), *by_name]
            calls.require_known(cls.__name__, names, given, cls._meant)

    @classmethod
    def _meant(cls, given: Mapping[str, Any]) -> str | None:
        known = inspect.signature(cls).parameters
        named = {n: n if n in known else cls.argument_named(n) for n in given}
        if None in named.values():
            return None
        return cls._call({str(named[name]): value for name, value in given.items()})

    @classmethod
    def _call(cls, given: Mapping[str, Any]) -> str:
        package = "mr.losses." if cls.__module__.startswith(f"{registry.PACKAGE}.") else ""
        written = ", ".join(f"{name}={calls.shown(value)}" for name, value in given.items())
        return f"{package}{cls.__name__}({written})"
