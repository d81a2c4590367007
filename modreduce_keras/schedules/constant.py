"""A schedule that keeps one value."""

from modreduce_keras.arguments import require_number
from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule
from modreduce_keras.typing import Tensor


@register("schedule", "constant")
class Constant(Schedule):
    """The same value at every step.

    Args:
        constant: The value.

    Raises:
        ValueError: If it is not a finite number.

    Example:
        >>> float(Constant(0.5)(100))
        0.5
    """

    def __init__(self, constant: float) -> None:
        self.constant = require_number("constant", constant)

    def value(self, step: Tensor) -> Tensor:
        return self.constant
