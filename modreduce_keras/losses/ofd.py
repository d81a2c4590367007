"""Overhaul of feature distillation: what a ReLU lets through."""

from keras import ops

from modreduce_keras.losses.preactivation_base import PreactivationLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("loss", "ofd")
class OFD(PreactivationLoss):
    """Overhaul of feature distillation: positive responses, and any value below a negative one.

    Σ d(f_t, f_s) over all neurons, with d = 0 where f_s ≤ f_t ≤ 0, and d = (f_s - f_t)² elsewhere

    The method's teacher is cut off at a negative margin for each channel, which the adapter
    `"margin_connector"` does. The taps are layers before their activation.

    Args:
        name: Name of the loss. Defaults to `"ofd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and student, or lists of them; see `PreactivationLoss`.

    Returns:
        (batch,), float32; 0 where positive responses are equal and none of the student's exceeds
        a negative one of the teacher.

    Raises:
        ValueError: If a feature is not a map, or the channels or the numbers of layers differ.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[[[2.0, -0.5]]]])
        >>> float(OFD()(teacher, np.array([[[[1.0, -9.0]]]])))
        1.0
        >>> float(OFD()(teacher, np.array([[[[1.0, 1.5]]]])))
        5.0

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, 2019, with the weights of
        the layers and of the term of the published code. There the teacher's batch normalization
        uses the statistics of the batch; here the teacher runs in inference mode, as always.
    """

    default_weight = 0.001
    default_adapter = "margin_connector"

    def penalty(self, teacher: Tensor, student: Tensor) -> Tensor:
        free = ops.logical_and(student <= teacher, teacher <= 0)
        return ops.where(free, 0.0, ops.square(student - teacher))
