"""Logit matching: the mean squared difference of the logits."""

from keras import ops

from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "logit_mse")
class LogitMSE(ResponseLoss):
    """Logit matching: the mean squared difference of the logits, or of a regression's outputs.

    mean_c (z_s - z_t)²

    Args:
        name: Name of the loss. Defaults to `"logit_mse"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Outputs of teacher and student, (batch, ..., units); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both are equal.

    Example:
        >>> import numpy as np
        >>> float(LogitMSE()(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]])))
        2.0

    Reference:
        Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014.
    """

    independent_positions = True
    least_classes = 1

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        return ops.mean(ops.square(student - teacher), axis=-1)
