"""Half a cosine wave from one value to another."""

from keras import ops

from modreduce_keras.arguments import require_number
from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule, positive_steps
from modreduce_keras.typing import Tensor


@register("schedule", "cosine")
class Cosine(Schedule):
    """Half a cosine wave from `start` to `end` over `steps`, then `end`.

    value = end + (start - end) · ½ (1 + cos(π · step / steps))

    Args:
        start: Value at step 0.
        end: Value from step `steps` on.
        steps: Number of training steps, positive.

    Raises:
        ValueError: If `steps` is not positive, or a value is not a finite number.

    Example:
        >>> round(float(Cosine(1.0, 0.0, steps=10)(5)), 6)
        0.5

    Reference:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
    """

    def __init__(self, start: float, end: float, *, steps: int) -> None:
        self.start, self.end = require_number("start", start), require_number("end", end)
        self.steps = positive_steps(steps)

    def value(self, step: Tensor) -> Tensor:
        falling = 0.5 * (1.0 + ops.cos(3.141592653589793 * self.progress(step)))
        return self.end + (self.start - self.end) * falling
