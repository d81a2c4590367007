"""One value until a step, another from there on."""

from keras import ops

from modreduce_keras.arguments import require_number
from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule, positive_steps
from modreduce_keras.typing import Tensor


@register("schedule", "cut_off")
class CutOff(Schedule):
    """`before` until step `steps`, `after` from there on.

    Args:
        after: Value from step `steps` on.
        steps: Number of training steps, positive.
        before: Value until then. Defaults to 0.

    Raises:
        ValueError: If `steps` is not positive, or a value is not a finite number.

    Example:
        >>> [round(float(CutOff(0.7, steps=10)(step)), 1) for step in (9, 10)]
        [0.0, 0.7]
    """

    def __init__(self, after: float, *, steps: int, before: float = 0.0) -> None:
        self.after, self.before = require_number("after", after), require_number("before", before)
        self.steps = positive_steps(steps)

    def value(self, step: Tensor) -> Tensor:
        return ops.where(step < self.steps, self.before, self.after)
