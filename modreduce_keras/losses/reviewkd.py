"""Knowledge review: maps compared at several sizes."""

from keras import ops

from modreduce_keras.losses.base import Loss, shapes_of
from modreduce_keras.ops import adaptive_average_pool, per_sample_mean
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "reviewkd")
class ReviewKD(Loss):
    """Knowledge review's hierarchical context loss: maps compared at several sizes.

    Σ over stages of Σ_l w_l mean (pool_l(f_s) - pool_l(f_t))² / Σ_l w_l

    where l runs over the maps' own size and the sizes 4, 2 and 1 that are smaller than it, with
    weights that halve from one to the next: 1, ½, ¼, ⅛. The student's maps come from the adapter,
    `"review_fusion"`, in which each stage reviews the deeper ones.

    Args:
        name: Name of the loss. Defaults to `"reviewkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, a list of (batch, height, width, channels), or of another rank.
        y_pred: The student's maps, of the same shapes.

    Returns:
        (batch,), float32; 0 where all maps are equal.

    Raises:
        ValueError: If the numbers of stages differ or a pair's shapes do.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[[3.0], [-3.0]], [[3.0], [-3.0]]]])
        >>> float(ReviewKD()([np.zeros((1, 2, 2, 1))], [maps]))
        6.0

    Reference:
        Chen et al., Distilling Knowledge via Knowledge Review, 2021. The paper raises the weight
        of the term linearly over the first 20 epochs: `weight=schedules.Linear(0, 1, steps=...)`.
        Maps that are not square are pooled to square sizes below their shorter side.
    """

    default_adapter = "review_fusion"

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        both_lists = isinstance(teacher, (list, tuple)) and isinstance(student, (list, tuple))
        if not both_lists or len(teacher) != len(student):
            raise ValueError(
                "ReviewKD needs as many stages of the student as of the teacher, in lists: "
                "at=['stage1', 'stage2', 'stage3']. Received: "
                f"{shapes_of(teacher)} of the teacher and {shapes_of(student)} of the student"
            )
        return sum(self._stage(*pair) for pair in zip(teacher, student, strict=True))

    def _stage(self, teacher: Tensor, student: Tensor) -> Tensor:
        self.require(
            len(teacher.shape) > 2 and teacher.shape[1:] == student.shape[1:],
            "maps (batch, height, width, channels), or sequences (batch, length, channels), of "
            "equal shape in each stage",
            teacher,
            student,
        )
        difference, sizes = student - teacher, student.shape[1:-1]
        value, weight, total = per_sample_mean(ops.square(difference)), 1.0, 1.0
        for size in (4, 2, 1):
            if size < min(sizes):
                weight /= 2.0
                total += weight
                pooled = adaptive_average_pool(difference, *[size] * len(sizes))
                value = value + weight * per_sample_mean(ops.square(pooled))
        return value / total
