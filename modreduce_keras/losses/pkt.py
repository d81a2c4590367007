"""Probabilistic knowledge transfer: probabilities that samples are neighbours."""

from typing import Any

from keras import ops

from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.ops import flatten, per_sample_mean, unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "pkt")
class PKT(RelationLoss):
    """Probabilistic knowledge transfer: probabilities that samples are neighbours.

    mean_ij p_t log((p_t + ε) / (p_s + ε)), where p_ij = (1 + cos(f_i, f_j)) / 2, each row scaled
    to sum one, and ε = 1e-7

    Args:
        name: Name of the loss. Defaults to `"pkt"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Features of teacher and student, (batch, ..., width); see `RelationLoss`.

    Returns:
        (batch,), float32; 0 where the probabilities agree.

    Example:
        >>> import numpy as np
        >>> apart, alike = np.eye(2), np.ones((2, 2))
        >>> round(float(PKT()(apart, alike)), 4)
        0.0283

    Reference:
        Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer,
        2018.
    """

    default_weight = 30000.0

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        p_teacher = self.relations(flatten(teacher))
        p_student = self.relations(flatten(student))
        ratio = ops.log(p_teacher + 1e-7) - ops.log(p_student + 1e-7)
        return per_sample_mean(p_teacher * ratio)

    def relations(self, embeddings: Tensor) -> Any:
        directions = unit(embeddings)
        cosines = ops.matmul(directions, ops.transpose(directions))
        # Rounding may put the cosine of opposite embeddings below -1.
        similarity = ops.maximum(0.5 * (cosines + 1.0), 0.0)
        return similarity / ops.sum(similarity, axis=1, keepdims=True)
