"""Factor transfer: the absolute difference of normalized factors."""

from keras import ops

from modreduce_keras.losses.map_base import MapLoss, over_all
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "ft")
class FactorTransfer(MapLoss):
    """Factor transfer's loss: the absolute difference of normalized factors.

    mean |q̂_s - q̂_t| over the positions, where q = mean over the channels of f², flattened, and
    q̂ = q / ‖q‖

    The method's factors come from the adapter `"factors"`: a paraphraser of the teacher's maps,
    trained in a separate stage, and a translator of the student's. With `adapter=None`, the
    loss compares the maps themselves.

    Args:
        name: Name of the loss. Defaults to `"ft"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and student, (batch, ..., channels); see `MapLoss`.

    Returns:
        (batch,), float32; 0 where normalized factors agree.

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

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        factors = [
            over_all(ops.mean(ops.square(maps), axis=-1)) for maps in self.matched(teacher, student)
        ]
        return ops.abs(factors[1] - factors[0])
