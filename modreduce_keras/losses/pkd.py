"""PKD: how the activations of a channel vary, not how large they are."""

from typing import ClassVar

from keras import ops

from modreduce_keras.losses.map_base import MapLoss
from modreduce_keras.ops import centred, directions, filled
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "pkd")
class PKD(MapLoss):
    """Distillation by Pearson's correlation: how the activations of a channel vary.

    ½ mean (n(f_s) - n(f_t))² over positions and channels, where n makes the mean of each channel
    over all positions of the batch 0 and its variance 1

    The mean over the batch is 1 - ρ, with Pearson's correlation ρ of each channel, averaged over
    the channels. The sizes of the activations do not matter, so that detectors of different kinds
    can be compared, by the levels of their feature pyramids. A channel without variance is 0 after
    n. The adapter, `"flow_channels"`, is a 1×1 convolution where the numbers of channels differ.

    With a mask, mean and variance are those of the positions that are kept. On several replicas,
    the batch is each replica's own part.

    Args:
        name: Name of the loss. Defaults to `"pkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and student, (batch, ..., channels); see `MapLoss`.

    Returns:
        (batch,), float32; 0 where each channel of the one is a positive multiple of the other's,
        up to a constant.

    Raises:
        ValueError: If a side is not a map, or the channels differ.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[1.0], [3.0], [2.0]]])
        >>> round(float(PKD()(maps, -5.0 * maps)), 4), round(float(PKD()(maps, 9.0 * maps)), 4)
        (2.0, 0.0)

    Reference:
        Cao et al., PKD: General Distillation Framework for Object Detectors via Pearson
        Correlation Coefficient, 2022, with the weight of most published configurations (10 between
        two RetinaNets); the published code divides by positions - 1 in the variance.
    """

    default_weight = 6.0
    default_adapter: ClassVar[str | None] = "flow_channels"
    equal_channels = True
    over_positions = "mean"

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        teacher, student = self.matched(teacher, student)
        positions = ops.shape(student)[:-1]
        mask = ops.ones(positions, "bool") if mask is None else filled(mask, student[..., 0])
        kept = ops.reshape(ops.cast(mask, "float32"), (-1, 1))
        number = ops.sum(kept)
        units = [_unit_columns(maps, kept) for maps in (teacher, student)]
        # Unit vectors times the root of their length have variance 1.
        values = 0.5 * number * ops.mean(ops.square(units[1] - units[0]), axis=-1)
        return ops.reshape(values, positions)


def _unit_columns(maps: Tensor, kept: Tensor) -> Tensor:
    """Returns each channel, less its mean, at unit length: (batch · positions, channels)."""
    rows = ops.reshape(maps, (-1, maps.shape[-1]))
    scale = ops.sum(kept * ops.square(rows), axis=0, keepdims=True)
    return directions(centred(rows, 0, kept), scale, axis=0)[0]
