"""MiniLM's attention transfer: the divergence of the distributions over the keys."""

from typing import Any, ClassVar

from keras import ops

from modreduce_keras.losses.attention_base import AttentionLoss, distributions_apart
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "minilm_attention")
class MiniLMAttention(AttentionLoss):
    """MiniLM's attention transfer: the divergence of the distributions over the keys.

    mean over heads and queries of KL(softmax(A_t) ‖ softmax(A_s)), with A = Q Kᵀ / √d

    Of the last layer alone: `mr.Feature("minilm_attention", student="encoder_2/attention_logits",
    teacher="encoder_12/attention_logits")`. The softmax is taken here, over the keys that count, so
    it reads the logits.

    Args:
        name: Name of the loss. Defaults to `"minilm_attention"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Logits of the attention of teacher and student, (batch, heads, queries,
            keys). Where the numbers of heads differ, their distributions averaged over heads are
            compared; see `AttentionLoss`, also for masks.

    Returns:
        (batch,), float32; 0 where the distributions are equal.

    Raises:
        ValueError: If a feature is not an attention map, or the queries or keys are not as many.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[[[0.0, np.log(3.0)]]]]), np.zeros((1, 1, 1, 2))
        >>> round(float(MiniLMAttention()(teacher, student)), 4)
        0.1308

    Reference:
        Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
        Pre-Trained Transformers, 2020, equation 4. It is used with `"minilm_relation"` of the
        values, with equal weights.
    """

    default_weight = 1.0
    takes_scores: ClassVar[bool] = False

    def _positions(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> tuple[Any, Any]:
        values = self.per_position(teacher, student, labels, mask)
        return values, None if mask is None else ops.any(mask, axis=-1)

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.maps(teacher, student)
        return distributions_apart(teacher, student, mask)
