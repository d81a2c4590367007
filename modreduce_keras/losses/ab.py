"""Activation boundaries: which neurons respond."""

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.preactivation_base import PreactivationLoss
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("loss", "ab")
class AB(PreactivationLoss):
    """Activation boundaries: the student's neurons respond where the teacher's do.

    3/1000 Σ max(0, m - b f_s)² over all neurons, with b = 1 where the teacher's neuron responds
    (f_t > 0) and b = -1 where it does not

    How strongly the teacher responds does not matter. The taps are layers before their activation.

    Args:
        margin: m, how far from the boundary the student's neurons are to stay: a number that is
            not negative, or a schedule. Defaults to 1.
        name: Name of the loss. Defaults to `"ab"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and student, or lists of them; see `PreactivationLoss`.

    Returns:
        (batch,), float32; 0 where all neurons are on the teacher's side by the margin.

    Raises:
        ValueError: If the margin is out of range, a feature is not a map, or the channels or the
            numbers of layers differ.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[[[7.0, -7.0]]]])
        >>> student = np.array([[[[0.5, 0.5]]]])
        >>> round(float(AB()(teacher, student)), 4)
        0.0075

    Reference:
        Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
        Neurons, 2019, with the factor 3/1000 and the weights of the layers of the published code.
        The paper trains this loss alone first, and the task afterwards.
    """

    staged = True
    margin = Knob()

    def __init__(
        self,
        *,
        margin: float = 1.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = margin

    def penalty(self, teacher: Tensor, student: Tensor) -> Tensor:
        side = ops.where(teacher > 0, 1.0, -1.0)
        return 3e-3 * ops.square(ops.relu(self.margin - side * student))
