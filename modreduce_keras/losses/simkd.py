"""SimKD: the student's projected last maps against the teacher's."""

from typing import ClassVar

from keras import ops

from modreduce_keras.losses.map_base import MapLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "simkd")
class SimKD(MapLoss):
    """SimKD: the student's projected last feature maps against the teacher's.

    mean (f_s - f_t)²

    The method deploys the student with a projector and the teacher's own classifier, so that
    matching this feature is all there is to learn. `mr.models.reuse_classifier`
    builds that network; its tap `"projection"` is f_s:

        mr.Distiller(
            student=mr.models.reuse_classifier(student=student, teacher=teacher),
            teacher=teacher,
            knowledge=[mr.Feature("simkd", student="projection", teacher="stage3")],
            supervised_weight=0,
        )

    Args:
        name: Name of the loss. Defaults to `"simkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and projector, (batch, ..., channels); see `MapLoss`.

    Returns:
        (batch,), float32; 0 where both are equal.

    Example:
        >>> import numpy as np
        >>> float(SimKD()(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 2.0)))
        4.0

    Reference:
        Chen et al., Knowledge Distillation with the Reused Teacher Classifier, 2022.
    """

    default_feature: ClassVar[str | None] = None
    equal_channels = True
    over_positions = "mean"

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        teacher, student = self.matched(teacher, student)
        return ops.mean(ops.square(student - teacher), axis=-1)
