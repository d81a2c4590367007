"""TinyBERT's loss on attention: the mean squared difference of the attention matrices."""

from keras import ops

from modreduce_keras.losses.attention_base import AttentionLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "tinybert_attention")
class TinyBERTAttention(AttentionLoss):
    """TinyBERT's loss on attention: the mean squared difference of the attention matrices.

    mean over heads, queries and keys of (A_s - A_t)², with A = Q Kᵀ / √d

    The paper compares the logits, before the softmax: `at="encoder_2/attention_logits"`. The
    probabilities, by `"encoder_2/attention_scores"`, are what it found to converge more slowly.

    Args:
        name: Name of the loss. Defaults to `"tinybert_attention"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Attention maps of teacher and student, (batch, heads, queries, keys). Where
            the numbers of heads differ, their averages over heads are compared; see
            `AttentionLoss`, also for masks.

    Returns:
        (batch,), float32; 0 where the maps are equal.

    Raises:
        ValueError: If a feature is not an attention map, or the queries or keys are not as many.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.zeros((1, 2, 3, 3)), np.full((1, 4, 3, 3), 2.0)
        >>> float(TinyBERTAttention()(teacher, student))
        4.0

    Reference:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020. The loss
        on hidden states beside it is `"hint"` with `adapter="token_projection"`, of weight 1. The
        published code counts padding; here, it does not count.
    """

    default_weight = 1.0

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.maps(teacher, student)
        if teacher.shape[1] != student.shape[1]:
            teacher, student = (
                ops.mean(side, axis=1, keepdims=True) for side in (teacher, student)
            )
        return ops.mean(ops.square(student - teacher), axis=1)
