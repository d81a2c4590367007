"""Curriculum temperature: knowledge distillation at a temperature that is learnt against it."""

from typing import Any

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.ops import tempered_divergence
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "ctkd")
class CTKD(ResponseLoss):
    """Knowledge distillation with a curriculum of temperatures (CTKD).

    T² Σ_c p_t (log p_t - log p_s) with p = softmax(z / T) and T = minimum + span · sigmoid(r)

    The raw temperature r comes from the adapter (`"learnt_temperature"` by default), which turns
    its gradient round: T is learnt to make the loss large while the student makes it small. The
    curriculum, from easy to hard, is the adapter's `reversal`.

    Args:
        minimum: Lowest temperature, a positive number or schedule. Defaults to 1.
        span: How far the temperature may rise above the lowest, a number or schedule that is not
            negative. Defaults to 20.
        name: Name of the loss. Defaults to `"ctkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's logits, (batch, ..., classes), or a dict of `"teacher"` and
            `"mask"`, see `ResponseLoss`.
        y_pred: A list of the student's logits, of the same shape, and the raw temperature,
            (batch, ..., 1).

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If an argument is out of range, the raw temperature is missing, or the shapes
            differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[2.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 2.0]])
        >>> raw = np.array([[-100.0]])  # T = 1
        >>> round(float(CTKD().call(teacher, [student, raw])[0]), 4)
        1.361

    Reference:
        Li et al., Curriculum Temperature for Knowledge Distillation, 2023.
    """

    default_adapter = "learnt_temperature"
    student_extras = 1
    output_kinds = (CLASSES,)
    independent_positions = True
    minimum = Knob(positive=True)
    span = Knob()

    def __init__(
        self,
        *,
        minimum: float = 1.0,
        span: float = 20.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.minimum, self.span = minimum, span

    def _positions(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> tuple[Any, Any]:
        if not isinstance(student, (list, tuple)) or len(student) != 2:
            raise ValueError(
                "CTKD needs the student's side to be [logits, raw temperature], as the adapter "
                f"'learnt_temperature' makes it. Received: {type(student).__name__}"
            )
        logits, raw = student
        teacher, logits, _, mask = self.checked(teacher, logits, mask=mask)
        self.require(
            len(raw.shape) == len(logits.shape) and raw.shape[-1] == 1,
            "a raw temperature (batch, ..., 1) beside the student's logits",
            teacher,
            raw,
        )
        return self.by_rows(self._at, teacher, logits, None, mask, raw), mask

    def _at(self, teacher: Tensor, student: Tensor, labels: Any, mask: Any, raw: Tensor) -> Tensor:
        temperature = self.minimum + self.span * ops.sigmoid(raw)
        return tempered_divergence(teacher, student, temperature)
