"""Schedules: step -> value, evaluated inside the graph.

They are Keras learning-rate schedules, so each of them also drives a learning rate, and each of
Keras' own schedules also drives a weight or a temperature. The step is the number of training
steps (batches) done so far; `steps` below is always such a number, for example
`epochs * steps_per_epoch`.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from modreduce_keras import registry
from modreduce_keras.arguments import is_number, require_integer, require_number
from modreduce_keras.registry import register


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Base class: a function of the training step that Keras can serialize.

    To add one, write `__init__`, which keeps each argument under its own name, and `value(step)`
    with a float32 step; declare `example_arguments` and register the class.
    """

    example_arguments: ClassVar[dict[str, Any]] = {}
    """Valid constructor arguments, for the conformance tests."""

    def __call__(self, step):
        """Returns the value at a step, as a float32 scalar."""
        return ops.cast(self.value(ops.cast(step, "float32")), "float32")

    def value(self, step):
        """Returns the value at a float32 step. To be written by each schedule."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self):
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({given})"

    def landmarks(self) -> list[float]:
        """Returns the steps where the value is smallest or largest, for what has a range."""
        return [0.0, float(getattr(self, "steps", 0.0))]

    def progress(self, step):
        """Returns the part of `steps` that is done, from 0 to 1."""
        return ops.clip(step / self.steps, 0.0, 1.0)


def _positive_steps(steps: int) -> int:
    if not (is_number(steps) and steps > 0):
        raise ValueError(f"steps must be a positive number of training steps. Received: {steps=}")
    return steps


def _numbers(name: str, values: Any) -> list[float]:
    if not isinstance(values, (Sequence, np.ndarray)) or not all(map(is_number, values)):
        raise ValueError(f"{name} must be a list of finite numbers. Received: {name}={values!r}")
    return list(values)


@register("schedule", "constant")
class Constant(Schedule):
    """The same value at every step.

    Args:
        constant: The value.

    Raises:
        ValueError: If it is no finite number.

    Example:
        >>> float(Constant(0.5)(100))
        0.5
    """

    example_arguments: ClassVar = {"constant": 0.25}

    def __init__(self, constant: float):
        self.constant = require_number("constant", constant)

    def value(self, step):
        return self.constant


@register("schedule", "linear")
class Linear(Schedule):
    """A straight line from `start` to `end` over `steps`, then `end`.

    Args:
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Number of training steps, positive.

    Raises:
        ValueError: If `steps` is not positive, or a value is no finite number.

    Example:
        >>> float(Linear(0.0, 1.0, steps=10)(5))
        0.5
    """

    example_arguments: ClassVar = {"start": 0.1, "end": 2.0, "steps": 10}

    def __init__(self, start: float, end: float, *, steps: int):
        self.start, self.end = require_number("start", start), require_number("end", end)
        self.steps = _positive_steps(steps)

    def value(self, step):
        return self.start + (self.end - self.start) * self.progress(step)


@register("schedule", "cosine")
class Cosine(Schedule):
    """Half a cosine wave from `start` to `end` over `steps`, then `end`.

    value = end + (start - end) · ½ (1 + cos(π · step / steps))

    Args:
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Number of training steps, positive.

    Raises:
        ValueError: If `steps` is not positive, or a value is no finite number.

    Example:
        >>> round(float(Cosine(1.0, 0.0, steps=10)(5)), 6)
        0.5

    Reference:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
    """

    example_arguments: ClassVar = {"start": 0.1, "end": 2.0, "steps": 10}

    def __init__(self, start: float, end: float, *, steps: int):
        self.start, self.end = require_number("start", start), require_number("end", end)
        self.steps = _positive_steps(steps)

    def value(self, step):
        falling = 0.5 * (1.0 + ops.cos(3.141592653589793 * self.progress(step)))
        return self.end + (self.start - self.end) * falling


@register("schedule", "sigmoid_ramp_up")
class SigmoidRampUp(Schedule):
    """The ramp-up of the online methods: end · exp(-5 (1 - step / steps)²), then `end`.

    Args:
        end: Value from step `steps` on.
        steps: Number of training steps, positive. The papers use 80 epochs.

    Raises:
        ValueError: If `steps` is not positive, or a value is no finite number.

    Example:
        >>> round(float(SigmoidRampUp(1.0, steps=80)(0)), 6)
        0.006738

    Reference:
        Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, 2017.
    """

    example_arguments: ClassVar = {"end": 2.0, "steps": 10}

    def __init__(self, end: float = 1.0, *, steps: int):
        self.end, self.steps = require_number("end", end), _positive_steps(steps)

    def value(self, step):
        return self.end * ops.exp(-5.0 * ops.square(1.0 - self.progress(step)))


@register("schedule", "exponential")
class Exponential(Schedule):
    """From `start` to `end` by equal factors over `steps`, smoothly or in stairs.

    value = start · (end / start)^p with p = step / steps; with stairs, p is rounded down to a
    multiple of 1 / stairs.

    Args:
        start: Value at step 0, not zero.
        end: Value from step `steps` on, of the same sign as `start`.
        steps: Number of training steps, positive.
        stairs: Number of equal stairs, or `None` for a smooth curve. ModReduce's online weight
            is `Exponential(0.01, 0.7, steps=240 * steps_per_epoch, stairs=24)`.

    Raises:
        ValueError: If `steps` or `stairs` is not positive, or `start` and `end` differ in sign or
            are no finite numbers.

    Example:
        >>> round(float(Exponential(0.01, 1.0, steps=10)(5)), 6)
        0.1
    """

    example_arguments: ClassVar = {"start": 0.1, "end": 2.0, "steps": 10, "stairs": 5}

    def __init__(self, start: float, end: float, *, steps: int, stairs: int | None = None):
        start, end = require_number("start", start), require_number("end", end)
        if not start * end > 0:
            raise ValueError(
                "start and end must both be positive or both be negative. "
                f"Received: {start=}, {end=}"
            )
        self.start, self.end = start, end
        self.stairs = require_integer("stairs", stairs, optional=True)
        self.steps = _positive_steps(steps)

    def value(self, step):
        done = self.progress(step)
        if self.stairs is not None:
            # A stair that begins exactly at this step must not be missed by rounding.
            done = ops.floor(done * self.stairs + 1e-5) / self.stairs
        return self.start * ops.power(self.end / self.start, done)


@register("schedule", "cut_off")
class CutOff(Schedule):
    """`before` until step `steps`, `after` from there on.

    Args:
        after: Value from step `steps` on.
        steps: Number of training steps, positive.
        before: Value until then. Defaults to 0.

    Raises:
        ValueError: If `steps` is not positive, or a value is no finite number.

    Example:
        >>> [round(float(CutOff(0.7, steps=10)(step)), 1) for step in (9, 10)]
        [0.0, 0.7]
    """

    example_arguments: ClassVar = {"after": 2.0, "steps": 10, "before": 0.5}

    def __init__(self, after: float, *, steps: int, before: float = 0.0):
        self.after, self.before = require_number("after", after), require_number("before", before)
        self.steps = _positive_steps(steps)

    def value(self, step):
        return ops.where(step < self.steps, self.before, self.after)


@register("schedule", "piecewise")
class Piecewise(Schedule):
    """Constant pieces: `values[i]` from step `boundaries[i - 1]` on.

    Args:
        boundaries: Steps at which the next value begins, strictly ascending.
        values: One value more than boundaries.

    Raises:
        ValueError: If the numbers of both do not fit, the boundaries do not ascend or are
            negative, or one is no finite number.

    Example:
        >>> [float(Piecewise([10, 20], [4.0, 2.0, 1.0])(step)) for step in (9, 10, 20)]
        [4.0, 2.0, 1.0]
    """

    example_arguments: ClassVar = {"boundaries": [4, 10], "values": [4.0, 2.0, 1.0]}

    def __init__(self, boundaries: list[int], values: list[float]):
        self.boundaries = _numbers("boundaries", boundaries)
        self.values = _numbers("values", values)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                "values must have one entry more than boundaries. "
                f"Received: {len(self.values)} values and {len(self.boundaries)} boundaries"
            )
        if any(b <= a for a, b in zip([-1, *self.boundaries], self.boundaries, strict=False)):
            raise ValueError(f"boundaries must ascend and not be negative. Received: {boundaries=}")

    def landmarks(self) -> list[float]:
        """Returns the first step of each piece."""
        return [0.0, *map(float, self.boundaries)]

    def value(self, step):
        index = ops.sum(
            ops.cast(step >= ops.convert_to_tensor(self.boundaries, "float32"), "int32")
        )
        return ops.take(ops.convert_to_tensor(self.values, "float32"), index)


get = partial(registry.get, "schedule", base=Schedule)

__all__ = [
    "Schedule",
    *(schedule.__name__ for schedule in registry.components("schedule").values()),
    "get",
]
