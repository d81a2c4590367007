"""Feature losses on statistics of the maps, which need no equal numbers of channels."""

from typing import ClassVar

from keras import ops

from modreduce_keras.arguments import require_integer
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import as_list, per_sample_mean, pooled_to_match, unit
from modreduce_keras.registry import register


class MapLoss(Loss):
    """Base class of losses on two sets of maps, (batch, height, width, channels).

    Sequences, (batch, length, channels), and volumes are maps of other ranks. Maps of unequal
    length, height or width are averaged down to the smaller one first.
    """

    example_shapes = ((4, 4, 6), (8, 8, 3))
    one_feature = True
    equal_channels: ClassVar[bool] = False
    """Whether channel is compared with channel, so that both need as many."""

    def matched(self, teacher, student):
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


def by_position(maps):
    """Returns maps of any rank as (batch, positions, channels)."""
    return ops.reshape(maps, (ops.shape(maps)[0], -1, maps.shape[-1]))


def over_all(values):
    """Returns values (batch, positions...) at unit length over all positions of a sample."""
    return unit(values, axis=tuple(range(1, len(values.shape))))


@register("loss", "at")
class AttentionTransfer(MapLoss):
    """Attention transfer: where in the image the activations are large.

    mean (â_s - â_t)² over the positions, where a = mean over the channels of |f|^p, flattened, and
    â = a / ‖a‖

    Args:
        power: p, a positive integer. Defaults to 2.
        name: Name of the loss. Defaults to `"at"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, height, width, channels), or sequences, (batch, length,
            channels); or a dict of `"teacher"` and `"mask"`, the positions that count.
        y_pred: The student's maps; size and channels may differ, except with a mask.

    Returns:
        (batch,), float32; 0 where the attention maps are proportional.

    Raises:
        ValueError: If `power` is not a positive integer, or a feature is not a map.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[[1.0], [0.0]], [[0.0], [0.0]]]])
        >>> float(AttentionTransfer()(maps, maps[:, :, ::-1]))
        0.5

    Reference:
        Zagoruyko and Komodakis, Paying More Attention to Attention, 2017, with the mean over
        positions and channels of the published code.
    """

    default_weight = 1000.0
    over_positions = "mean"

    def __init__(self, *, power: int = 2, name=None, reduction="sum_over_batch_size"):
        super().__init__(name=name, reduction=reduction)
        self.power = require_integer("power", power)

    def per_position(self, teacher, student, labels=None, mask=None):
        attention = [
            over_all(ops.mean(ops.power(ops.abs(maps), self.power), axis=-1))
            for maps in self.matched(teacher, student)
        ]
        return ops.square(attention[1] - attention[0])

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), "power": self.power}


@register("loss", "ft")
class FactorTransfer(MapLoss):
    """Factor transfer's loss: the absolute difference of normalized factors.

    mean |q̂_s - q̂_t| over the positions, where q = mean over the channels of f², flattened, and
    q̂ = q / ‖q‖

    The method's factors come from the adapter `"factors"`: a paraphraser of the teacher's maps,
    trained in a stage of its own, and a translator of the student's. With `adapter=None`, the
    loss compares the maps themselves.

    Args:
        name: Name of the loss. Defaults to `"ft"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, height, width, channels), or sequences, (batch, length,
            channels); or a dict of `"teacher"` and `"mask"`, the positions that count.
        y_pred: The student's maps; size and channels may differ, except with a mask.

    Returns:
        (batch,), float32; 0 where the factors are proportional.

    Raises:
        ValueError: If a feature is not a map.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[[1.0], [0.0]], [[0.0], [0.0]]]])
        >>> float(FactorTransfer()(maps, maps[:, :, ::-1]))
        0.5

    Reference:
        Kim, Park and Kwak, Paraphrasing Complex Network: Network Compression via Factor
        Transfer, 2018, in the form and with the weight of the comparison of Tian et al.,
        Contrastive Representation Distillation, 2020. The paper and its code compare the
        normalized factors entry by entry, without a mean over the channels, with weight 500.
    """

    default_weight = 200.0
    default_adapter = "factors"
    over_positions = "mean"

    def per_position(self, teacher, student, labels=None, mask=None):
        factors = [
            over_all(ops.mean(ops.square(maps), axis=-1)) for maps in self.matched(teacher, student)
        ]
        return ops.abs(factors[1] - factors[0])


@register("loss", "nst")
class NST(MapLoss):
    """Neuron selectivity transfer: the distributions of the channels' activation patterns.

    mean k(t, t) + mean k(s, s) - 2 mean k(s, t), with the kernel k(a, b) = (aᵀ b)² between the
    normalized patterns (height · width) of two channels, the means over all pairs of channels

    Args:
        name: Name of the loss. Defaults to `"nst"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, height, width, channels), or sequences, (batch, length,
            channels); or a dict of `"teacher"` and `"mask"`, the positions that count.
        y_pred: The student's maps; size and channels may differ, except with a mask.

    Returns:
        (batch,), float32; 0 where the patterns are distributed alike.

    Raises:
        ValueError: If a feature is not a map.

    Example:
        >>> import numpy as np
        >>> maps = np.array([[[[1.0], [0.0]], [[0.0], [0.0]]]])
        >>> float(NST()(maps, maps[:, :, ::-1]))
        2.0

    Reference:
        Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer,
        2017, with the polynomial kernel.
    """

    default_weight = 50.0
    ignores_zeros = True

    def per_sample(self, teacher, student, labels=None):
        teacher, student = (
            unit(ops.transpose(by_position(maps), (0, 2, 1)))
            for maps in self.matched(teacher, student)
        )
        return (
            self._mean_kernel(teacher, teacher)
            + self._mean_kernel(student, student)
            - 2.0 * self._mean_kernel(student, teacher)
        )

    @staticmethod
    def _mean_kernel(first, second):
        products = ops.matmul(first, ops.transpose(second, (0, 2, 1)))
        return per_sample_mean(ops.square(products))


@register("loss", "fsp")
class FSP(Loss):
    """Flow of the solution procedure: how one layer's channels go with a later layer's.

    mean (G_s - G_t)², where G[i, j] = mean over the positions of f_first[i] · f_second[j]

    Args:
        name: Name of the loss. Defaults to `"fsp"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: Two of the teacher's maps, [(batch, height, width, channels), ...]; the larger is
            averaged down to the size of the smaller.
        y_pred: Two of the student's maps, with the numbers of channels of the teacher's, to which
            the adapter `"flow_channels"` brings others.

    Returns:
        (batch,), float32; 0 where the matrices are equal.

    Raises:
        ValueError: If not two maps came, or the channels differ.

    Example:
        >>> import numpy as np
        >>> maps = [np.ones((1, 4, 4, 2)), np.ones((1, 2, 2, 3))]
        >>> float(FSP()(maps, [2.0 * maps[0], maps[1]]))
        1.0

    Reference:
        Yim et al., A Gift from Knowledge Distillation, 2017. The paper trains this loss alone
        first, and the task afterwards.
    """

    default_weight = 50.0
    default_adapter = "flow_channels"
    staged = True
    example_shapes = ([(4, 4, 3), (2, 2, 5)], [(4, 4, 3), (2, 2, 5)])

    def per_sample(self, teacher, student, labels=None):
        flows = [self._flow(maps) for maps in (teacher, student)]
        self.require(
            flows[0].shape[1:] == flows[1].shape[1:],
            "pairs of layers with equal numbers of channels (compared: channels by channels)",
            *flows,
        )
        return per_sample_mean(ops.square(flows[1] - flows[0]))

    @staticmethod
    def _flow(maps):
        number = len(as_list(maps))
        if number != 2:
            raise ValueError(
                "FSP needs two maps of each model: at=['stage1', 'stage2']. "
                f"Received: {number} of one model"
            )
        first, second = (by_position(one) for one in pooled_to_match(*maps))
        positions = ops.cast(ops.shape(first)[1], "float32")
        return ops.matmul(ops.transpose(first, (0, 2, 1)), second) / positions
