"""MiniLM's value-relation transfer: how the tokens' values lie to each other."""

from typing import Any

from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.losses.attention_base import distributions_apart
from modreduce_keras.losses.base import Loss, fits
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "minilm_relation")
class MiniLMRelation(Loss):
    """MiniLM's value-relation transfer: relations among the values of the tokens.

    mean over heads and tokens of KL(R_t ‖ R_s), with R = softmax(V Vᵀ / √d)

    Of the last layer: `mr.Feature("minilm_relation", student="encoder_2/value",
    teacher="encoder_12/value")`, where `encoder_2` is a `MultiHeadAttention`. The widths of
    student and teacher may differ, and no projection is needed. A `MultiHeadAttention` takes Keras'
    mask off its inputs, so padded texts need `mask=` of the knowledge.

    Where the numbers of heads differ, the distributions averaged over heads are compared, which is
    ours. With `relation_heads`, the vectors of all heads are concatenated and cut anew, into as
    many on both sides: this is MiniLMv2, which compares the queries and the keys in the same way.

    Args:
        relation_heads: Number of relation heads, which divides the widths of both. Defaults to
            `None`: the heads of the models, of a feature without heads one.
        name: Name of the loss. Defaults to `"minilm_relation"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Values (queries, keys) of teacher and student, (batch, tokens, heads,
            width), or hidden states (batch, tokens, width), of as many tokens. A mask is of the
            tokens: those left out are no queries and no keys.

    Returns:
        (batch,), float32; 0 where the relations are equal.

    Raises:
        ValueError: If `relation_heads` is not a positive integer or does not divide a width, or
            features are of other ranks or of unequal numbers of tokens.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[[[1.0]], [[-1.0]]]]), np.zeros((1, 2, 1, 3))
        >>> round(float(MiniLMRelation()(teacher, student)), 4)
        0.3278

    Reference:
        Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
        Pre-Trained Transformers, 2020, equation 6; Wang et al., MiniLMv2: Multi-Head Self-Attention
        Relation Distillation for Compressing Pretrained Transformers, 2021.
    """

    default_weight = 1.0
    one_feature = True
    over_positions = "mean"

    def __init__(
        self,
        *,
        relation_heads: int | None = None,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.relation_heads = require_integer("relation_heads", relation_heads, optional=True)

    @staticmethod
    def positions(shape: Any) -> tuple:
        return tuple(shape)[1:2]

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.require(
            all(len(side.shape) in (3, 4) for side in (teacher, student))
            and fits(teacher.shape[1:2], student.shape[1:2]),
            "values of the same tokens, (batch, tokens, heads, width) or (batch, tokens, width)",
            teacher,
            student,
        )
        kept = None if mask is None else mask[:, None, :]
        return distributions_apart(self._relations(teacher), self._relations(student), kept)

    def _relations(self, values: Tensor) -> Tensor:
        """Returns V Vᵀ / √d, (batch, heads, tokens, tokens)."""
        batch, tokens = ops.shape(values)[:2]
        heads = values.shape[2] if len(values.shape) == 4 else 1
        width = heads * values.shape[-1]
        heads = self.relation_heads or heads
        if width % heads:
            raise ValueError(
                f"relation_heads must divide the width of all heads together, {width}. "
                f"Received: relation_heads={self.relation_heads}"
            )
        values = ops.reshape(values, (batch, tokens, heads, width // heads))
        values = ops.transpose(values, (0, 2, 1, 3))
        products = ops.matmul(values, ops.transpose(values, (0, 1, 3, 2)))
        return products / (width // heads) ** 0.5
