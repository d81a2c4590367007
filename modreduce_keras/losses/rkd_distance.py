"""Relational knowledge distillation by the distances of pairs."""

from typing import Any

from keras import ops

from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.ops import (
    pairwise_squared_distances,
    safe_reciprocal,
    safe_sqrt,
)
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("loss", "rkd_distance")
class RKDDistance(RelationLoss):
    """Relational knowledge distillation by distances.

    mean_ij smooth_l1(d_ij(s) / mean d(s) - d_ij(t) / mean d(t))

    where d_ij is the Euclidean distance of samples i and j, and the mean distance is taken over
    the pairs that are not zero apart.

    Args:
        name: Name of the loss. Defaults to `"rkd_distance"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Features of teacher and student, (batch, ..., width); see `RelationLoss`.

    Returns:
        (batch,), float32; 0 where the relations agree.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [1.0], [1.0]])
        >>> round(float(RKDDistance()(teacher, student)), 4)
        0.1667

    Reference:
        Park et al., Relational Knowledge Distillation, 2019. Equal to the published code, but for
        pairs whose squared distance is less than a millionth of their squared norms: they count
        as zero apart (there: 1e-6).
    """

    default_weight = 25.0

    def relations(self, embeddings: Tensor) -> Any:
        distances = safe_sqrt(pairwise_squared_distances(embeddings))
        pairs = ops.sum(ops.cast(distances > 0, "float32"))
        return distances * pairs * safe_reciprocal(ops.sum(distances))
