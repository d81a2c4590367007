"""Inter-channel correlation: which channels of a layer respond alike."""

from keras import ops

from modreduce_keras.losses.map_base import MapLoss, by_position
from modreduce_keras.ops import unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "ickd")
class ICKD(MapLoss):
    """Inter-channel correlation: how similar the responses of the channels are.

    1/C Σ_ij (Ĝ_s[i, j] - Ĝ_t[i, j])², where G[i, j] = Σ over the positions of f[i] · f[j], for C
    channels, and Ĝ has the rows of G at unit length

    Args:
        name: Name of the loss. Defaults to `"ickd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, height, width, channels).
        y_pred: The student's maps, with as many channels, to which the adapter
            `"channel_projector"` brings them; the larger maps are averaged down to the size of
            the smaller.

    Returns:
        (batch,), float32; 0 where the correlations are proportional, row by row.

    Raises:
        ValueError: If a feature is not a map, or the channels differ.

    Example:
        >>> import numpy as np
        >>> apart = np.array([[[[1.0, 0.0], [0.0, 1.0]]]])
        >>> together = np.array([[[[1.0, 0.0], [1.0, 0.0]]]])
        >>> float(ICKD()(apart, 3.0 * apart)), float(ICKD()(apart, together))
        (0.0, 0.5)

    Reference:
        Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
        Distillation, 2021, with the normalized rows, the division by C and the weight (on
        CIFAR-100) of the published code.
    """

    default_weight = 2.5
    default_adapter = "channel_projector"
    equal_channels = True
    ignores_zeros = True

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        teacher, student = self.matched(teacher, student)
        teacher, student = (
            unit(ops.matmul(ops.transpose(maps, (0, 2, 1)), maps))
            for maps in (by_position(teacher), by_position(student))
        )
        return ops.sum(ops.square(student - teacher), axis=(1, 2)) / student.shape[-1]
