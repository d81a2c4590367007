"""The base of the losses on feature maps, which it brings to one size."""

from typing import ClassVar

from keras import ops

from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import pooled_to_match, unit
from modreduce_keras.typing import Labels, Mask, Tensor


class MapLoss(Loss):
    """Base class of losses on two sets of maps, (batch, height, width, channels).

    Sequences, (batch, length, channels), and volumes are maps of other ranks. Maps of unequal
    length, height or width, in any ratio and either way, are averaged down to the smaller size
    along each axis first, and unless a loss compares channel with channel, the numbers of channels
    may differ too. `y_true` may be a dict of
    `"teacher"` and `"mask"`, the positions that count, (batch, ...); both sides then have the same
    positions.

    Raises:
        ValueError: If a feature is not a map, or the channels differ where they are compared.
    """

    default_feature: ClassVar[str | None] = "last feature maps"
    matches_sizes = True
    one_feature = True
    equal_channels: ClassVar[bool] = False
    """Whether channel is compared with channel, so that both need as many."""

    def matched(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns both sets of maps at equal size, or says what does not fit."""
        self.require(
            len(teacher.shape) == len(student.shape) > 2,
            "maps (batch, height, width, channels), or sequences (batch, length, channels), of "
            "both models",
            teacher,
            student,
        )
        self.require(
            not self.equal_channels or teacher.shape[-1] == student.shape[-1],
            "maps with equal numbers of channels (adapter='channel_projector' brings them there)",
            teacher,
            student,
        )
        return pooled_to_match(teacher, student)


class SquaredMaps(MapLoss):
    """Base class of losses that are Σ (f_s - f_t)² over the channels of a position.

    The positions of a sample are summed up, unless a loss says otherwise.
    """

    equal_channels = True
    over_positions = "sum"

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        teacher, student = self.matched(teacher, student)
        return ops.sum(ops.square(student - teacher), axis=-1)


def by_position(maps: Tensor) -> Tensor:
    """Returns maps of any rank as (batch, positions, channels)."""
    return ops.reshape(maps, (ops.shape(maps)[0], -1, maps.shape[-1]))


def over_all(values: Tensor) -> Tensor:
    """Returns values (batch, positions...) at unit length over all positions of a sample."""
    return unit(values, axis=tuple(range(1, len(values.shape))))
