"""Learnt temperature: a weight that is trained against the loss, beside the student's logits."""

from typing import Any

from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.knobs import Knob
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "learnt_temperature")
class LearntTemperature(Adapter):
    """One learnt raw temperature for all samples, with its gradient reversed.

    r ↦ r, with the gradient -λ ∂L/∂r in the place of ∂L/∂r

    The student's optimizer thus raises the loss by r, while it lowers it by the student. The loss
    `"ctkd"` makes the temperature from r; at the start r = 1, as in the published code, which is
    T = 15.6 with that loss's defaults.

    Args:
        reversal: λ, a number that is not negative, or a schedule. Defaults to 1. The paper's
            curriculum raises it from 0 to 1 by a cosine over the first 10 epochs:
            `mr.schedules.Cosine(0.0, 1.0, steps=10 * steps_per_epoch)`.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: Logits, (batch, ..., classes).
        teacher: Logits, returned as they are.

    Returns:
        A list of the student's logits and r, (batch, ..., 1), float32; and the teacher's logits.

    Raises:
        ValueError: If `reversal` is negative.

    Example:
        >>> import numpy as np
        >>> logits = np.zeros((2, 10))
        >>> (student, raw), teacher = LearntTemperature()(logits, logits)
        >>> tuple(raw.shape), float(raw[0, 0])
        ((2, 1), 1.0)

    Reference:
        Li et al., Curriculum Temperature for Knowledge Distillation, 2023, the global variant: one
        temperature for all samples. The gradient reversal is that of Ganin and Lempitsky,
        Unsupervised Domain Adaptation by Backpropagation, 2015.
    """

    one_feature = True
    takes_mask = True
    reversal = Knob()

    def __init__(
        self,
        *,
        reversal: float = 1.0,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        # The logits pass through and keep their precision, whatever the policy is.
        super().__init__(autocast=False, name=name, dtype=dtype, trainable=trainable)
        self.reversal = reversal

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        self.raw_temperature = self.add_weight(
            shape=(), initializer="ones", dtype="float32", autocast=False, name="raw_temperature"
        )

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        raw = ops.convert_to_tensor(self.raw_temperature)
        constant = ops.stop_gradient(raw)
        # The bracket is exactly zero, so only the gradient changes.
        raw = constant - self.reversal * (raw - constant)
        return [student, ops.broadcast_to(raw, (*ops.shape(student)[:-1], 1))], teacher
