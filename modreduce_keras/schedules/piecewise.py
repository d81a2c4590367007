"""Constant pieces, each with a value of its own."""

from keras import ops

from modreduce_keras.registry import register
from modreduce_keras.schedules.base import Schedule, numbers
from modreduce_keras.typing import Tensor


@register("schedule", "piecewise")
class Piecewise(Schedule):
    """Constant pieces: `values[i]` from step `boundaries[i - 1]` on.

    Args:
        boundaries: Steps at which the next value begins, strictly ascending.
        values: One value more than boundaries.

    Raises:
        ValueError: If the numbers of both do not fit, the boundaries do not ascend or are
            negative, or one is not a finite number.

    Example:
        >>> [float(Piecewise([10, 20], [4.0, 2.0, 1.0])(step)) for step in (9, 10, 20)]
        [4.0, 2.0, 1.0]
    """

    def __init__(self, boundaries: list[int], values: list[float]) -> None:
        self.boundaries = numbers("boundaries", boundaries)
        self.values = numbers("values", values)
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

    def value(self, step: Tensor) -> Tensor:
        index = ops.sum(
            ops.cast(step >= ops.convert_to_tensor(self.boundaries, "float32"), "int32")
        )
        return ops.take(ops.convert_to_tensor(self.values, "float32"), index)
