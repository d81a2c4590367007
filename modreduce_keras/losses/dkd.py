"""Decoupled knowledge distillation: a weight each for the labelled class and the others."""

from typing import ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.decoupled_base import decoupled
from modreduce_keras.losses.response_base import SoftenedLoss
from modreduce_keras.ops import kl_divergence
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "dkd")
class DKD(SoftenedLoss):
    """Decoupled knowledge distillation: KD's two parts with separate weights.

    α T² KL(b_t ‖ b_s) + β T² KL(p̂_t ‖ p̂_s)

    where b = (p_y, 1 - p_y) is the binary distribution of the labelled class y against the rest,
    and p̂ the distribution over the other classes, renormalized. KD is the case α = 1 with
    β = 1 - p_t[y] per sample.

    Args:
        target_weight: α, of the labelled class. Defaults to 1.
        nontarget_weight: β, of the other classes. Defaults to 8.
        temperature: T, see `SoftenedLoss`. Defaults to 4.
        standardize: Whether logits are z-scored first, see `SoftenedLoss`. Defaults to `False`.
        name: Name of the loss. Defaults to `"dkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A dict of `"teacher"`, `"labels"` and perhaps `"mask"`; see `ResponseLoss`.
        y_pred: The student's logits, (batch, ..., classes).

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If an argument is out of range, labels are missing, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[2.0, 1.0, 0.0]]), np.array([[2.0, 0.0, 1.0]])
        >>> y_true = {"teacher": teacher, "labels": np.array([0])}
        >>> round(float(DKD(temperature=1.0)(y_true, student)), 4)
        3.6969

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, 2022. The paper raises the weight of the
        term linearly over the first 20 epochs: `weight=schedules.Linear(0, 1, steps=...)`. Sun et
        al., Logit Standardization in Knowledge Distillation, 2024.
    """

    symbols: ClassVar = {"alpha": "target_weight", "beta": "nontarget_weight"}
    independent_positions = True
    needs_labels = True
    target_weight = Knob()
    nontarget_weight = Knob()

    def __init__(
        self,
        *,
        target_weight: float = 1.0,
        nontarget_weight: float = 8.0,
        temperature: float = 4.0,
        standardize: bool = False,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            temperature=temperature, standardize=standardize, name=name, reduction=reduction
        )
        self.target_weight = target_weight
        self.nontarget_weight = nontarget_weight

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        temperature = self.temperature
        binary, others = zip(
            *(decoupled(logits, labels, temperature) for logits in (teacher, student)),
            strict=True,
        )
        return ops.square(temperature) * (
            self.target_weight * kl_divergence(*binary)
            + self.nontarget_weight * kl_divergence(*others)
        )
