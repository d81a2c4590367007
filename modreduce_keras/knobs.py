"""Knobs: hyperparameters that can be changed during training.

A knob is declared on a class and set like an attribute:

    class KD(Loss):
        temperature = Knob(positive=True)

A constant becomes a `keras.Variable`: a callback that sets `loss.temperature = 2.0` between two
epochs changes the compiled step, and a checkpoint restores the value. A schedule is evaluated in
the graph at the distiller's step, so a resumed training continues it.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from modreduce_keras import registry

Schedule = keras.optimizers.schedules.LearningRateSchedule


class Knob:
    """A hyperparameter that can be changed while the model trains.

    It is a descriptor: declare it on a class, and read and set it like an attribute of an
    instance. Its value is a number or a schedule.

    Args:
        positive: Whether the value must be greater than zero. Negative, infinite and NaN values
            are never accepted.
    """

    also = ""
    """Words that a subclass takes too, for messages: `", 'word'"`."""

    def __init__(self, *, positive: bool = False) -> None:
        self.positive = positive

    def __set_name__(self, owner: type | None, name: str) -> None:
        self.name = name
        self.setting = f"_{name}_setting"
        self.given = f"_{name}_given"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        setting = getattr(instance, self.setting)
        if not isinstance(setting, Schedule):
            return setting
        step = getattr(instance, "knob_step", None)
        if step is None:
            raise ValueError(
                f"{self.name} of {type(instance).__name__} follows a schedule, and a schedule "
                "needs a distiller's step. Give a number to use it outside of a distiller."
            )
        return setting(keras.ops.cast(step(), "float32"))

    def __set__(self, instance: Any, value: Any) -> None:
        owner = type(instance).__name__
        current = getattr(instance, self.setting, None)
        if isinstance(value, dict) and "class_name" not in value:
            weights = " Weights of knowledge go with it: knowledge={'kd': 0.9, 'hint': 100}."
            raise ValueError(
                f"{self.name} of {owner} must be {self._expected()}, and a dict the config of a "
                f"schedule.{weights if 'weight' in self.name else ''} Received: "
                f"{self.name}={value!r}"
            )
        is_schedule = isinstance(value, (str, dict, Schedule))
        if current is not None and (is_schedule or isinstance(current, Schedule)):
            raise ValueError(
                f"{self.name} of {owner} cannot change between a number and a schedule, or from "
                "one schedule to another, after construction: the compiled step would not "
                f"notice. Build a new {owner}. Received: {self.name}={value!r}"
            )
        if is_schedule:
            value = self._schedule(owner, value)
            # Between these, schedules of this library take no value beyond those there.
            for step in getattr(value, "landmarks", lambda: [0.0])():
                self._validate(owner, value(step), f"{value!r} at step {step:g}")
            setattr(instance, self.setting, value)
            return
        value = self._validate(owner, value, repr(value))
        setattr(instance, self.given, value)
        if current is None:
            variable = keras.Variable(
                value,
                trainable=False,
                dtype="float32",
                name=self.name,
                autocast=False,
                aggregation="only_first_replica",
            )
            setattr(instance, self.setting, variable)
        else:
            current.assign(value)

    def _schedule(self, owner: str, value: Any) -> keras.optimizers.schedules.LearningRateSchedule:
        try:
            return registry.get("schedule", value, Schedule)
        except ValueError as error:
            expected = f"a number{self.also} or a schedule; a number is no string"
            raise ValueError(f"{self.name} of {owner}: {error} ({expected})") from error
        except TypeError as error:
            raise ValueError(
                "A schedule needs its arguments, such as mr.schedules.Linear(0, 1, steps=1000) or "
                "mr.schedules.get('linear', start=0, end=1, steps=1000). Received: "
                f"{value!r} as {self.name} of {owner} ({error})"
            ) from error

    def _validate(self, owner: str, value: Any, received: str) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number) and (number > 0 or (number == 0 and not self.positive)):
            return number
        raise ValueError(
            f"{self.name} of {owner} must be {self._expected()}. Received: {self.name}={received}"
        )

    def _expected(self) -> str:
        number = "a positive number" if self.positive else "a number that is not negative"
        return (
            f"{number}{self.also}, or a schedule (one of {list(registry.components('schedule'))} "
            "or an instance)"
        )

    def config(self, instance: Any) -> Any:
        """Returns the constructor argument that gives the knob's present value."""
        setting = getattr(instance, self.setting)
        if isinstance(setting, Schedule):
            return keras.saving.serialize_keras_object(setting)
        given = getattr(instance, self.given)
        present = float(keras.ops.convert_to_numpy(setting.value))
        return given if np.float32(given) == present else present


def declared(instance: Any) -> dict[str, Knob]:
    """Returns the knobs that an instance's class declares, by name."""
    return {
        name: knob
        for cls in reversed(type(instance).__mro__)
        for name, knob in vars(cls).items()
        if isinstance(knob, Knob)
    }


def config(instance: Any) -> dict[str, Any]:
    """Returns the constructor arguments for all knobs of an instance."""
    return {name: knob.config(instance) for name, knob in declared(instance).items()}


def variables(instance: Any) -> list[keras.Variable]:
    """Returns the variables behind the constant knobs of an instance."""
    settings = [getattr(instance, knob.setting) for knob in declared(instance).values()]
    return [setting for setting in settings if not isinstance(setting, Schedule)]


@contextlib.contextmanager
def bound(parts: Iterable[Any], step: Callable[[], keras.Variable]) -> Iterator[None]:
    """Tells the parts of a distiller where their schedules read the step, while it is built.

    They stay bound, unless building fails: then they are free for the next try. A layer holds
    weights, and a schedule reads one distiller's step, so both serve one distiller only; a loss
    with constants alone may serve several.

    Args:
        parts: Layers and losses.
        step: Returns the step; a function, so that the variable is owned (and saved) by the
            distiller alone.

    Raises:
        ValueError: If a part serves another distiller.
    """
    parts = list(parts)
    for part in parts:
        _require_free(part)
    for part in parts:
        part.knob_step = step
    try:
        yield
    except Exception:
        for part in parts:
            part.knob_step = None
            part.knobs_were_bound = True
        raise


def is_free(part: Any) -> bool:
    """Returns whether a part may serve a distiller: none has it, or left it half built."""
    is_layer = isinstance(part, keras.layers.Layer)
    if getattr(part, "knob_step", None) is None:
        return not (is_layer and part.built and getattr(part, "knobs_were_bound", False))
    follows_schedule = len(variables(part)) < len(declared(part))
    return not (is_layer or follows_schedule)


def _require_free(part: Any) -> None:
    if getattr(part, "knob_step", None) is not None and not is_free(part):
        is_layer = isinstance(part, keras.layers.Layer)
        reason = "already belongs to" if is_layer else "follows a schedule in"
        raise ValueError(
            f"{part.name!r} {reason} another distiller, and cannot be copied from its config. Make "
            f"a new {type(part).__name__} for each."
        )
