"""Normalized knowledge distillation: cross-entropies of the labelled class and of the others."""

from typing import ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.decoupled_base import decoupled
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "nkd")
class NKD(ResponseLoss):
    """Normalized knowledge distillation: cross-entropies of the labelled class and of the others.

    -p_t[y] log p_s[y] - γ T² Σ_{c≠y} p̂_t log p̂_s

    with p = softmax(z) and p̂ the distribution over the classes other than the labelled y,
    renormalized, at temperature T. Being cross-entropies, both parts keep the teacher's own
    entropy and are not zero where the student equals the teacher.

    Args:
        nontarget_weight: γ, of the other classes. Defaults to 1.5.
        temperature: Positive number or schedule, of the other classes only. Defaults to 1.
        name: Name of the loss. Defaults to `"nkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A dict of `"teacher"`, `"labels"` and perhaps `"mask"`; see `ResponseLoss`.
        y_pred: The student's logits, (batch, ..., classes).

    Returns:
        (batch,), float32, not negative.

    Raises:
        ValueError: If an argument is out of range, labels are missing, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> even = np.zeros((1, 3))  # ⅓ log 3 + 1.5 log 2
        >>> round(float(NKD()({"teacher": even, "labels": np.array([0])}, even)), 4)
        1.4059

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified
        Approach with Normalized Loss and Customized Soft Labels, 2023.
    """

    symbols: ClassVar = {"gamma": "nontarget_weight"}
    independent_positions = True
    needs_labels = True
    output_kinds = (CLASSES,)
    nontarget_weight = Knob()
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        nontarget_weight: float = 1.5,
        temperature: float = 1.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.nontarget_weight, self.temperature = nontarget_weight, temperature

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        temperature = self.temperature
        target_t, target_s = (decoupled(z, labels, 1.0)[0][..., 0] for z in (teacher, student))
        others_t, others_s = (decoupled(z, labels, temperature)[1] for z in (teacher, student))
        target = ops.exp(target_t) * target_s
        others = ops.sum(ops.exp(others_t) * others_s, axis=-1)
        return -target - self.nontarget_weight * ops.square(temperature) * others
