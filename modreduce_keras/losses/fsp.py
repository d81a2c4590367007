"""Flow of the solution procedure: how the channels of one layer go with those of a later one."""

from keras import ops

from modreduce_keras.losses.base import Loss
from modreduce_keras.losses.map_base import by_position
from modreduce_keras.ops import as_list, per_sample_mean, pooled_to_match
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "fsp")
class FSP(Loss):
    """Flow of the solution procedure: products of the channels of two layers.

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

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        flows = [self._flow(maps) for maps in (teacher, student)]
        self.require(
            flows[0].shape[1:] == flows[1].shape[1:],
            "pairs of layers with equal numbers of channels (compared: channels by channels)",
            *flows,
        )
        return per_sample_mean(ops.square(flows[1] - flows[0]))

    @staticmethod
    def _flow(maps: Tensor) -> Tensor:
        number = len(as_list(maps))
        if number != 2:
            raise ValueError(
                "FSP needs two maps of each model: at=['stage1', 'stage2']. "
                f"Received: {number} of one model"
            )
        first, second = (by_position(one) for one in pooled_to_match(*maps))
        positions = ops.cast(ops.shape(first)[1], "float32")
        return ops.matmul(ops.transpose(first, (0, 2, 1)), second) / positions
