"""Variational information distillation: a Gaussian around the student's prediction."""

from keras import ops

from modreduce_keras.losses.map_base import MapLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "vid")
class VID(MapLoss):
    """Variational information distillation: a Gaussian around the student's prediction.

    mean ½ ((μ - f_t)² / v + log v), the negative log likelihood of the teacher's maps f_t with
    mean μ and one variance v for each channel, without the constant ½ log 2π

    It bounds the information that the two maps share from below. Its least value is not zero: it
    falls without bound where the student predicts exactly and v goes to zero.

    Args:
        name: Name of the loss. Defaults to `"vid"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, height, width, channels).
        y_pred: What the adapter `"variational_regressor"` predicts: a list of μ, (batch, height,
            width, channels), whose size may differ, and log v, (batch, channels).

    Returns:
        (batch,), float32; negative where sure and right.

    Raises:
        ValueError: If the student's side is not such a list, or the channels differ.

    Example:
        >>> import numpy as np
        >>> mean, log_variance = np.full((1, 2, 2, 1), 2.0), np.zeros((1, 1))
        >>> float(VID()(np.zeros((1, 2, 2, 1)), [mean, log_variance]))
        2.0

    Reference:
        Ahn et al., Variational Information Distillation for Knowledge Transfer, 2019. The paper
        weighs several layers by schedules of their own; here each is a knowledge of its own.
    """

    default_adapter = "variational_regressor"
    student_extras = 1
    over_positions = "mean"

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        if not isinstance(student, (list, tuple)) or len(student) != 2:
            raise ValueError(
                "VID needs the student's side as [mean, log_variance]: "
                "adapter='variational_regressor' predicts both. "
                f"Received: {type(student).__name__}"
            )
        mean, log_variance = student
        teacher, mean = self.matched(teacher, mean)
        self.require(
            teacher.shape[-1] == mean.shape[-1] == log_variance.shape[-1],
            "equal numbers of channels",
            teacher,
            mean,
        )
        for _ in teacher.shape[1:-1]:
            log_variance = ops.expand_dims(log_variance, 1)
        difference = ops.square(mean - teacher)
        return 0.5 * ops.mean(difference * ops.exp(-log_variance) + log_variance, axis=-1)
