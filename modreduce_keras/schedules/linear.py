"""A straight line from one value to another."""

from modreduce_keras.arguments import require_number
from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule, positive_steps
from modreduce_keras.typing import Tensor


@register("schedule", "linear")
class Linear(Schedule):
    """A straight line from `start` to `end` over `steps`, then `end`.

    Args:
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Number of training steps, positive.

    Raises:
        ValueError: If `steps` is not positive, or a value is not a finite number.

    Example:
        >>> float(Linear(0.0, 1.0, steps=10)(5))
        0.5
    """

    def __init__(self, start: float, end: float, *, steps: int) -> None:
        self.start, self.end = require_number("start", start), require_number("end", end)
        self.steps = positive_steps(steps)

    def value(self, step: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * self.progress(step)
