"""Base class of the schedules: functions of the training step that Keras can serialize."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import is_number
from modreduce_keras.typing import Tensor


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Base class: a function of the training step that Keras can serialize.

    To add one, write `__init__`, which keeps each argument under its own name, and `value(step)`
    with a float32 step, and register the class.
    """

    def __call__(self, step: Tensor) -> Any:
        """Returns the value at a step, as a float32 scalar."""
        return ops.cast(self.value(ops.cast(step, "float32")), "float32")

    def value(self, step: Tensor) -> Tensor:
        """Returns the value at a float32 step. To be written by each schedule."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({given})"

    def landmarks(self) -> list[float]:
        """Returns the steps where the value is smallest or largest, for what has a range."""
        return [0.0, float(getattr(self, "steps", 0.0))]

    def progress(self, step: Tensor) -> Tensor:
        """Returns the part of `steps` that is done, from 0 to 1."""
        return ops.clip(step / self.steps, 0.0, 1.0)


def positive_steps(steps: int) -> int:
    """Returns a number of training steps.

    Raises:
        ValueError: If it is not positive.
    """
    if not (is_number(steps) and steps > 0):
        raise ValueError(f"steps must be a positive number of training steps. Received: {steps=}")
    return steps


def numbers(name: str, values: Any) -> list[float]:
    """Returns a sequence of numbers as a list.

    Raises:
        ValueError: If it is none, or one of them is not a finite number.
    """
    if not isinstance(values, (Sequence, np.ndarray)) or not all(map(is_number, values)):
        raise ValueError(f"{name} must be a list of finite numbers. Received: {name}={values!r}")
    return list(values)
