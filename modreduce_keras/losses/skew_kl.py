"""Skew KL: the divergence from a mixture of student and teacher."""

from keras import ops

from modreduce_keras.arguments import is_number, require_bool
from modreduce_keras.losses.response_base import SoftenedLoss
from modreduce_keras.ops import (
    kl_divergence,
    log_mixture,
    tempered_divergence,
    tempered_log_softmax,
)
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "skew_kl")
class SkewKL(SoftenedLoss):
    """Skew KL divergence: the divergence from a mixture of teacher and student.

    T² KL(p_t ‖ α p_t + (1 - α) p_s), or reversed T² KL(p_s ‖ (1 - α) p_t + α p_s)

    with p = softmax(z / T). The mixture is at least α times the first side, so that the value is at
    most T² log (1 / α), and the gradient stays small where the divergence of `"kd"` (`alpha=0`), or
    of `"reverse_kl"`, would explode.

    Args:
        alpha: α, from 0 up to, but not including, 1. Defaults to 0.1.
        reverse: Whether the student's probabilities come first (skew reverse KL). Defaults to
            `False`.
        temperature: T, see `SoftenedLoss`. Defaults to 1.
        standardize: Whether logits are z-scored first, see `SoftenedLoss`. Defaults to `False`.
        name: Name of the loss. Defaults to `"skew_kl"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Logits of teacher and student, (batch, ..., classes); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If an argument is out of range, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> certain = 99.0 * np.eye(2)  # two that have nothing in common: log 10
        >>> round(float(SkewKL()(certain, certain[::-1])), 4)
        2.3026

    Reference:
        Ko et al., DistiLLM: Towards Streamlined Distillation for Large Language Models, 2024.
    """

    independent_positions = True

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        reverse: bool = False,
        temperature: float = 1.0,
        standardize: bool = False,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            temperature=temperature, standardize=standardize, name=name, reduction=reduction
        )
        if not (is_number(alpha) and 0 <= alpha < 1):
            raise ValueError(f"alpha must be a number from 0 to below 1. Received: {alpha=}")
        self.alpha, self.reverse = alpha, require_bool("reverse", reverse)

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        temperature = self.temperature
        sides = (student, teacher) if self.reverse else (teacher, student)
        if not self.alpha:
            return tempered_divergence(*sides, temperature)
        first, second = (tempered_log_softmax(z, temperature) for z in sides)
        divergence = kl_divergence(first, log_mixture(first, second, self.alpha))
        return ops.square(temperature) * divergence
