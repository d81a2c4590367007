"""Logit matching by the mean absolute difference."""

from keras import ops

from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "logit_l1")
class LogitL1(ResponseLoss):
    """The mean absolute difference of the logits, or of a regression's outputs.

    mean_c |z_s - z_t|

    Outputs far off pull no harder than those close by, so a teacher's outliers matter less than
    under `"logit_mse"`.

    Args:
        name: Name of the loss. Defaults to `"logit_l1"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Outputs of teacher and student, (batch, ..., units); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both are equal.

    Example:
        >>> import numpy as np
        >>> float(LogitL1()(np.array([[1.0, 2.0]]), np.array([[1.0, 5.0]])))
        1.5

    Reference:
        Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014, with absolute differences in
        the place of squares.
    """

    independent_positions = True
    least_classes = 1

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        return ops.mean(ops.abs(student - teacher), axis=-1)
