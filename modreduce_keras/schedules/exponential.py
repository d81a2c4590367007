"""From one value to another by equal factors."""

from keras import ops

from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule, positive_steps
from modreduce_keras.typing import Tensor


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
            are not finite numbers.

    Example:
        >>> round(float(Exponential(0.01, 1.0, steps=10)(5)), 6)
        0.1
    """

    def __init__(self, start: float, end: float, *, steps: int, stairs: int | None = None) -> None:
        start, end = require_number("start", start), require_number("end", end)
        if not start * end > 0:
            raise ValueError(
                "start and end must both be positive or both be negative. "
                f"Received: {start=}, {end=}"
            )
        self.start, self.end = start, end
        self.stairs = require_integer("stairs", stairs, optional=True)
        self.steps = positive_steps(steps)

    def value(self, step: Tensor) -> Tensor:
        done = self.progress(step)
        if self.stairs is not None:
            # A stair that begins exactly at this step must not be missed by rounding.
            done = ops.floor(done * self.stairs + 1e-5) / self.stairs
        return self.start * ops.power(self.end / self.start, done)
