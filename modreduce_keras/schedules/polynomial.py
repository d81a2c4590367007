"""The cubic curve that gradual pruning follows, of any power."""

from keras import ops

from modreduce_keras.arguments import require_number
from modreduce_keras.calls import answering, of_names
from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule, positive_steps
from modreduce_keras.typing import Tensor

_FOREIGN = ("initial_sparsity", "final_sparsity", "begin_step", "end_step", "epochs")


@register("schedule", "polynomial")
class Polynomial(Schedule):
    """From `start` to `end`, fast at first and then slower, as in gradual pruning.

    value = end + (start - end) · (1 - p)^power with p = (step - begin) / steps, cut to 0 … 1

    Args:
        start: Value up to step `begin`.
        end: Value from step `begin + steps` on.
        steps: Number of training steps from `start` to `end`, positive.
        begin: The step with which it begins. Defaults to 0.
        power: Positive. Defaults to 3, as in the paper; 1 is a straight line.

    Raises:
        ValueError: If `steps` or `power` is not positive, `begin` is negative, or a value is no
            finite number.

    Example:
        >>> round(float(Polynomial(0.0, 0.8, steps=10)(5)), 6)
        0.7

    Reference:
        Zhu and Gupta, To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model
        Compression, 2018, equation 1.
    """

    @answering(
        of_names(_FOREIGN, "mr.schedules.Polynomial(0.0, 0.8, steps=end - begin, begin=begin)")
    )
    def __init__(
        self, start: float, end: float, *, steps: int, begin: int = 0, power: float = 3.0
    ) -> None:
        self.start, self.end = require_number("start", start), require_number("end", end)
        self.steps = positive_steps(steps)
        self.begin = require_number("begin", begin, 0.0)
        self.power = require_number("power", power, above=0.0)

    def landmarks(self) -> list[float]:
        return [float(self.begin), float(self.begin + self.steps)]

    def value(self, step: Tensor) -> Tensor:
        left = 1.0 - self.progress(step - self.begin)
        return self.end + (self.start - self.end) * ops.power(left, self.power)
