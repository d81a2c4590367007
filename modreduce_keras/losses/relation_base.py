"""The base of the losses on relations: how samples lie to each other, not where they lie."""

from typing import Any, ClassVar

from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import (
    flatten,
    per_sample_mean,
    smooth_l1,
)
from modreduce_keras.typing import Labels, Tensor


class RelationLoss(Loss):
    """Base class of the losses on relations between the samples of a batch.

    Teacher and student may have features of different shapes and widths; each is flattened to
    (batch, features), with zeros for the positions that a mask leaves out. The value of sample i
    is the part of the batch's loss that i takes part in as the anchor. A batch of one has no
    relations: its value and gradient are 0. On several replicas, the batch is each replica's own
    part, or with `mr.Relation(..., across_replicas=True)` that of all.
    """

    default_feature: ClassVar[str | None] = "embedding"
    kind = "relation"
    one_feature = True
    ignores_zeros = True

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        return per_sample_mean(
            smooth_l1(self.relations(flatten(student)) - self.relations(flatten(teacher)))
        )

    def relations(self, embeddings: Tensor) -> Any:
        """Returns the relations of each sample, (batch, ...). To be written by each loss."""
        raise NotImplementedError
