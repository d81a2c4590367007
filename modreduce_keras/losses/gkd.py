"""GKD: the generalized Jensen-Shannon divergence of student and teacher."""

from keras import ops

from modreduce_keras.arguments import is_number
from modreduce_keras.losses.response_base import SoftenedLoss
from modreduce_keras.ops import (
    kl_divergence,
    log_mixture,
    tempered_divergence,
    tempered_log_softmax,
)
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "gkd")
class GKD(SoftenedLoss):
    """Generalized knowledge distillation: the generalized Jensen-Shannon divergence.

    T² [β KL(p_t ‖ m) + (1 - β) KL(p_s ‖ m)] with m = β p_t + (1 - β) p_s and p = softmax(z / T)

    It lies between the forward KL of `"kd"` and `"reverse_kl"`, and never exceeds T² log 2. Towards
    β = 0 it becomes β KL(p_t ‖ p_s), and towards β = 1 it becomes (1 - β) KL(p_s ‖ p_t): it
    vanishes, and its direction is that of the forward and of the reverse KL. With `beta=0` and
    `beta=1` the loss is these divergences themselves, KL(p_t ‖ p_s) and KL(p_s ‖ p_t). So its size
    jumps there: near the ends, a larger `weight` makes up for the factor β or 1 - β.

    The paper trains on text that the student writes, wholly or in part: see `mr.data.generated`.

    Args:
        beta: β, from 0 to 1. Defaults to 0.5, the Jensen-Shannon divergence.
        temperature: T, see `SoftenedLoss`. Defaults to 1.
        standardize: Whether logits are z-scored first, see `SoftenedLoss`. Defaults to `False`.
        name: Name of the loss. Defaults to `"gkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Logits of teacher and student, (batch, ..., classes); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If an argument is out of range, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> certain = 99.0 * np.eye(2)  # two that have nothing in common: log 2
        >>> round(float(GKD()(certain, certain[::-1])), 4)
        0.6931

    Reference:
        Agarwal et al., On-Policy Distillation of Language Models: Learning from Self-Generated
        Mistakes, 2023.
    """

    independent_positions = True

    def __init__(
        self,
        *,
        beta: float = 0.5,
        temperature: float = 1.0,
        standardize: bool = False,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            temperature=temperature, standardize=standardize, name=name, reduction=reduction
        )
        if not (is_number(beta) and 0 <= beta <= 1):
            raise ValueError(f"beta must be a number from 0 to 1. Received: {beta=}")
        self.beta = beta

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        beta, temperature = self.beta, self.temperature
        if beta in (0, 1):
            sides = (student, teacher) if beta else (teacher, student)
            return tempered_divergence(*sides, temperature)
        of_teacher, of_student = (tempered_log_softmax(z, temperature) for z in (teacher, student))
        mixture = log_mixture(of_teacher, of_student, beta)
        divergences = beta * kl_divergence(of_teacher, mixture)
        divergences += (1.0 - beta) * kl_divergence(of_student, mixture)
        return ops.square(temperature) * divergences
