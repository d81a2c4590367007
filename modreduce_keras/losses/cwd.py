"""Channel-wise distillation: where in the image each channel is active."""

from typing import ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.map_base import MapLoss, by_position
from modreduce_keras.ops import filled, kl_divergence, log_softmax_of_kept
from modreduce_keras.registry import register
from modreduce_keras.typing import Mask, Tensor


@register("loss", "cwd")
class CWD(MapLoss):
    """Channel-wise distillation: where in the image each channel is active.

    T²/C Σ_c Σ_i p_ci(t) log (p_ci(t) / p_ci(s)), where p_c = softmax(f_c / T) over the positions i

    It compares maps of features, or of logits, whose channels are classes:
    `mr.Response(mr.losses.CWD(), weight=3.0)`. The adapter, `"flow_channels"`, is a 1×1 convolution
    where the numbers of channels differ, and nothing where they are equal.

    The default weight, 50, is the paper's for maps of features; for maps of logits it is 3 there.

    With a mask, the softmax is over the positions that are kept; a sample without any counts as 0.

    Args:
        temperature: T, a positive number or schedule. Defaults to 4.
        name: Name of the loss. Defaults to `"cwd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and student, (batch, ..., channels); see `MapLoss`.

    Returns:
        (batch,), float32; 0 where the maps of each channel differ by a constant.

    Raises:
        ValueError: If the temperature is not positive, a side is not a map, or the channels differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.log([[[4.0], [1.0]]]), np.zeros((1, 2, 1))  # 0.8, 0.2; 0.5 each
        >>> round(float(CWD(temperature=1.0)(teacher, student)), 4)
        0.1927

    Reference:
        Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, 2021, with the paper's
        temperature. The published code leaves weight and temperature to its user: it has 3 and
        T = 4 as its example for logits, and recorded runs on features with weights of 35 and 40.
    """

    default_weight = 50.0
    default_adapter: ClassVar[str | None] = "flow_channels"
    equal_channels = True
    takes_mask = True
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature

    def per_sample(self, teacher: Tensor, student: Tensor, mask: Mask = None) -> Tensor:
        sides = self.matched(teacher, student)
        kept = filled(mask, sides[1][..., 0])
        divergence = kl_divergence(*(self._log_over_positions(maps, kept) for maps in sides))
        return ops.square(self.temperature) * ops.mean(divergence, axis=-1)

    def _log_over_positions(self, maps: Tensor, kept: Tensor | None) -> Tensor:
        """Returns log p, (batch, channels, positions)."""
        activity = ops.transpose(by_position(maps), (0, 2, 1))
        if kept is not None:
            kept = ops.reshape(kept, (ops.shape(maps)[0], 1, -1))
        return log_softmax_of_kept(activity / self.temperature, kept)
