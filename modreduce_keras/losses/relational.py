"""Relational losses: how the samples of a batch lie to each other, not where they lie."""

import keras
from keras import ops

from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import (
    flatten,
    pairwise_squared_distances,
    per_sample_mean,
    safe_reciprocal,
    safe_sqrt,
    smooth_l1,
)
from modreduce_keras.registry import register

_ANCHORS = 16  # Samples whose angles are compared at a time.


class RelationLoss(Loss):
    """Base class of the losses on relations between the samples of a batch.

    Teacher and student may have features of different shapes; each is flattened to
    (batch, features), with zeros for the positions that a mask leaves out. The value of sample i
    is the part of the batch's loss that i takes part in as the anchor. A batch of one has no
    relations: its value and gradient are 0. On several replicas, the batch is each replica's own
    part, or with `mr.Relation(..., across_replicas=True)` that of all.
    """

    kind = "relation"
    example_shapes = ((12,), (8,))
    one_feature = True
    ignores_zeros = True

    def per_sample(self, teacher, student, labels=None):
        return per_sample_mean(
            smooth_l1(self.relations(flatten(student)) - self.relations(flatten(teacher)))
        )

    def relations(self, embeddings):
        """Returns the relations of each sample, (batch, ...). To be written by each loss."""
        raise NotImplementedError


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
        y_true: The teacher's embeddings, (batch, ...).
        y_pred: The student's embeddings, (batch, ...), of any width.

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

    def relations(self, embeddings):
        distances = safe_sqrt(pairwise_squared_distances(embeddings))
        pairs = ops.sum(ops.cast(distances > 0, "float32"))
        return distances * pairs * safe_reciprocal(ops.sum(distances))


@register("loss", "rkd_angle")
class RKDAngle(RelationLoss):
    """Relational knowledge distillation by angles.

    mean_ijk smooth_l1(cos_ijk(s) - cos_ijk(t))

    where cos_ijk is the cosine of the angle at sample i between samples j and k. It follows from
    the pairwise distances alone (the law of cosines), so no (batch, batch, features) tensor is
    made. A few samples i are compared at a time, and again for the gradient, so no
    (batch, batch, batch) tensor is made either.

    Args:
        name: Name of the loss. Defaults to `"rkd_angle"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's embeddings, (batch, ...).
        y_pred: The student's embeddings, (batch, ...), of any width.

    Returns:
        (batch,), float32; 0 where the relations agree.

    Example:
        >>> import numpy as np
        >>> right = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> flat = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        >>> round(float(RKDAngle()(right, flat)), 4)
        0.1296

    Reference:
        Park et al., Relational Knowledge Distillation, 2019.
    """

    default_weight = 50.0

    def per_sample(self, teacher, student, labels=None):
        squared = [pairwise_squared_distances(flatten(side)) for side in (student, teacher)]
        sides = [(values, safe_reciprocal(safe_sqrt(values))) for values in squared]
        batch = ops.shape(student)[0]
        # The last group is filled up with samples that come again; their values are cut off.
        groups = -(-batch // _ANCHORS)
        anchors = ops.reshape(ops.arange(groups * _ANCHORS) % batch, (groups, _ANCHORS))
        compare = keras.remat(self._compare)
        values = ops.map(lambda group: compare(group, *sides), anchors)
        return ops.reshape(values, (-1,))[:batch]

    @staticmethod
    def _compare(anchors, student, teacher):
        """Returns the values of some samples from both sides' squared and inverse distances."""

        def cosines(squared, inverse):
            lengths, scale = ops.take(squared, anchors, axis=0), ops.take(inverse, anchors, axis=0)
            dot = 0.5 * (lengths[:, :, None] + lengths[:, None, :] - squared)
            return dot * scale[:, :, None] * scale[:, None, :]

        return per_sample_mean(smooth_l1(cosines(*student) - cosines(*teacher)))
