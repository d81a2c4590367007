"""Pairwise distillation of maps: how alike each place of an image is to each other one."""

from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.losses.map_base import MapLoss, by_position
from modreduce_keras.ops import averaged_to, filled, mask_at, safe_reciprocal, unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Mask, Tensor


@register("loss", "pairwise")
class Pairwise(MapLoss):
    """Structured distillation of dense maps: how similar the positions are to each other.

    1/N² Σ_ij (a_ij(s) - a_ij(t))², where a_ij = cos(f_i, f_j) of N nodes, and a node is the mean
    of β × β neighbouring positions

    The numbers of channels may differ. With a mask, a node is the mean of those of its positions
    that are kept, and nodes without any do not count; a sample without any node counts as 0.

    It compares all pairs of nodes, so maps of 64 × 64 have a million numbers for each sample; a
    larger `granularity` makes them fewer.

    Args:
        granularity: β, positions of a node along each axis. Where it does not divide the size,
            there are ⌈size / β⌉ nodes, and some overlap or have a position more. Defaults to 2, as
            in the paper; 1 compares all positions.
        name: Name of the loss. Defaults to `"pairwise"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and student, (batch, ..., channels); see `MapLoss`.

    Returns:
        (batch,), float32; 0 where the cosines agree.

    Raises:
        ValueError: If `granularity` is not a positive integer, a side is not a map, or a size is
            not known and `granularity` is not 1.

    Example:
        >>> import numpy as np
        >>> apart, alike = np.eye(2)[None], np.ones((1, 2, 2))
        >>> round(float(Pairwise(granularity=1)(apart, alike)), 4)  # 2 of 4 cosines differ by 1
        0.5

    Reference:
        Liu et al., Structured Knowledge Distillation for Semantic Segmentation, 2019, with every
        node connected to every other one, averages and a weight of 10, as in the paper; the
        published code takes the largest value of each of four quarters, and a weight of 1.
    """

    default_weight = 10.0
    takes_mask = True

    def __init__(
        self,
        *,
        granularity: int = 2,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.granularity = require_integer("granularity", granularity)

    def per_sample(self, teacher: Tensor, student: Tensor, mask: Mask = None) -> Tensor:
        teacher, student = self.matched(teacher, student)
        kept = filled(mask, student[..., 0])
        if self.granularity > 1:
            self.require(
                None not in student.shape[1:-1],
                "maps of known size, or granularity=1",
                teacher,
                student,
            )
            sizes = [-(-size // self.granularity) for size in student.shape[1:-1]]
            teacher, student = (averaged_to(maps, sizes, kept) for maps in (teacher, student))
            kept = None if kept is None else mask_at(kept, sizes)
        nodes = [unit(by_position(maps)) for maps in (teacher, student)]
        likeness = [ops.matmul(one, ops.transpose(one, (0, 2, 1))) for one in nodes]
        squares = ops.square(likeness[1] - likeness[0])
        if kept is None:
            return ops.mean(squares, axis=(1, 2))
        # The nodes that do not count are zero, and so are their cosines.
        number = ops.sum(ops.cast(kept, "float32"), axis=tuple(range(1, len(kept.shape))))
        return ops.sum(squares, axis=(1, 2)) * ops.square(safe_reciprocal(number))
