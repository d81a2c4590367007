"""The ramp-up that online methods use."""

from keras import ops

from modreduce_keras.arguments import require_number
from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule, positive_steps
from modreduce_keras.typing import Tensor


@register("schedule", "sigmoid_ramp_up")
class SigmoidRampUp(Schedule):
    """The ramp-up of the online methods: end · exp(-5 (1 - step / steps)²), then `end`.

    Args:
        end: Value from step `steps` on.
        steps: Number of training steps, positive. The papers use 80 epochs.

    Raises:
        ValueError: If `steps` is not positive, or a value is not a finite number.

    Example:
        >>> round(float(SigmoidRampUp(1.0, steps=80)(0)), 6)
        0.006738

    Reference:
        Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, 2017.
    """

    def __init__(self, end: float = 1.0, *, steps: int) -> None:
        self.end, self.steps = require_number("end", end), positive_steps(steps)

    def value(self, step: Tensor) -> Tensor:
        return self.end * ops.exp(-5.0 * ops.square(1.0 - self.progress(step)))
