"""IFVD: how far each pixel's feature is from the mean feature of its class."""

from typing import Any

from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.labels import in_range, map_at
from modreduce_keras.losses.map_base import MapLoss
from modreduce_keras.ops import unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "ifvd")
class IFVD(MapLoss):
    """Intra-class feature variation distillation: how far a pixel is from the mean of its class.

    mean (c_i(s) - c_i(t))² over the positions i, where c_i = cos(f_i, mean of f_j over all j of
    the sample with the label of i)

    The labels y are maps, such as those of a segmentation. At a position of smaller maps, the
    label is that of the pixel in its middle. The numbers of channels may differ.

    Labels such as 255 that are no class are left out by `mr.Feature("ifvd", ignore_class=255)`.
    Positions that it or a mask leaves out belong to no class.

    Args:
        num_classes: Labels are from 0 to this number - 1, a positive integer. More than there are
            cost memory alone: num_classes · channels numbers for each sample. Defaults to 255.
        name: Name of the loss. Defaults to `"ifvd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A dict of `"teacher"`, maps (batch, height, width, channels), and `"labels"`,
            integers (batch, height, width) of any size, with a last axis of one, or one-hot; see
            `MapLoss`.
        y_pred: The student's maps.

    Returns:
        (batch,), float32; 0 where the cosines agree.

    Raises:
        ValueError: If `num_classes` is not a positive integer, a side is not a map, or the labels
            are no maps of classes (inside a compiled step, a label out of range gives NaN).

    Example:
        >>> import numpy as np
        >>> student, labels = np.eye(2)[None], np.zeros((1, 2), "int32")
        >>> teacher = np.ones((1, 2, 2))  # its cosines are 1, the student's 1/√2
        >>> round(float(IFVD()({"teacher": teacher, "labels": labels}, student)), 4)
        0.0858

    Reference:
        Wang et al., Intra-class Feature Variation Distillation for Semantic Segmentation, 2020,
        with the weight and the means per sample of the published code.
    """

    default_weight = 200.0
    needs_labels = True
    label_maps = True
    over_positions = "mean"

    def __init__(
        self,
        *,
        num_classes: int = 255,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.num_classes = require_integer("num_classes", num_classes)

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        teacher, student = self.matched(teacher, student)
        owner = type(self).__name__
        labels = ops.cast(map_at(labels, student.shape, owner, mask), "int32")
        labels, valid = in_range(labels, self.num_classes, owner)
        groups = self._groups(labels)
        cosines = [self._cosines(maps, groups) for maps in (teacher, student)]
        values = ops.square(cosines[1] - cosines[0])
        return values if valid is None else ops.where(valid, values, float("nan"))

    def _groups(self, labels: Tensor) -> Any:
        """Returns a number for each class of each sample, (batch · positions,)."""
        first = self.num_classes * ops.arange(ops.shape(labels)[0], dtype="int32")
        by_sample = ops.reshape(labels, (ops.shape(labels)[0], -1))
        return ops.reshape(by_sample + first[:, None], (-1,))

    def _cosines(self, maps: Tensor, groups: Tensor) -> Tensor:
        """Returns the cosine of each position and its class, (batch, positions...)."""
        rows = ops.reshape(maps, (-1, maps.shape[-1]))
        number = self.num_classes * ops.shape(maps)[0]
        # A sum has the direction of the mean, and what a mask leaves out is zero.
        sums = ops.segment_sum(rows, groups, num_segments=number)
        cosines = ops.sum(unit(rows) * ops.take(unit(sums), groups, axis=0), axis=-1)
        return ops.reshape(cosines, ops.shape(maps)[:-1])
