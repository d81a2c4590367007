"""Reverse KL: the divergence of the student's probabilities from the teacher's."""

from modreduce_keras.losses.response_base import SoftenedLoss
from modreduce_keras.ops import tempered_divergence
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "reverse_kl")
class ReverseKL(SoftenedLoss):
    """Reverse KL: the divergence of the student's probabilities from the teacher's.

    T² Σ_c p_s (log p_s - log p_t) with p = softmax(z / T)

    `"kd"` with the sides exchanged. A student that is too small for all that the teacher knows then
    concentrates on what the teacher finds most likely, instead of covering everything.

    MiniLLM minimizes the divergence of whole sequences, which it samples from the student and
    weighs by a policy gradient. This is its divergence of single tokens, at whatever positions the
    data have; `mr.data.generated` lets the student write the text.

    Args:
        temperature: T, see `SoftenedLoss`. Defaults to 1.
        standardize: Whether logits are z-scored first, see `SoftenedLoss`. Defaults to `False`.
        name: Name of the loss. Defaults to `"reverse_kl"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Logits of teacher and student, (batch, ..., classes); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If the temperature is not positive, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.log([[0.5, 0.5]]), np.log([[0.8, 0.2]])
        >>> round(float(ReverseKL()(teacher, student)), 4)  # 0.8 log 1.6 + 0.2 log 0.4
        0.1927

    Reference:
        Gu et al., MiniLLM: Knowledge Distillation of Large Language Models, 2023.
    """

    independent_positions = True

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        standardize: bool = False,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            temperature=temperature, standardize=standardize, name=name, reduction=reduction
        )

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        return tempered_divergence(student, teacher, self.temperature)
