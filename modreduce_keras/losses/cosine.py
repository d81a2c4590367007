"""Cosine: the angle between two features, whatever their lengths."""

from typing import ClassVar

from keras import ops

from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import directions
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "cosine")
class CosineDistance(Loss):
    """One minus the cosine of two features, position by position.

    mean over positions of (1 - cos(f_s, f_t))

    The cosine is along the last axis: of the embeddings of two models, or of the hidden states of
    each token. With a mask, the mean is over the positions that are kept, in the whole batch.

    A vector of zeros has no direction: where one side is zero it counts as 1, and where both are,
    as 0.

    The widths have to be equal, as in DistilBERT; `adapter="token_projection"` brings others there.

    Args:
        name: Name of the loss. Defaults to `"cosine"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Features of teacher and student, (batch, ..., width), of equal shapes.

    Returns:
        (batch,), float32, from 0 to 2; 0 where the directions are the same.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[[3.0, 0.0], [1.0, 1.0]]]), np.array([[[0.0, 2.0]] * 2])
        >>> round(float(CosineDistance()(teacher, student)), 4)
        0.6464

    Reference:
        Sanh et al., DistilBERT, a distilled version of BERT, 2019. There the hidden states of the
        last layer are compared, with this weight of 1 beside one of 5 for the logits.
    """

    default_feature: ClassVar[str | None] = "embedding"
    default_weight = 1.0
    one_feature = True
    over_positions = "mean"

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        remedy = " (adapter='token_projection' brings them to one width)"
        self.require_equal_shapes(teacher, student, remedy)
        # Half the squared distance of unit vectors, which is exact where they are close.
        (unit_t, is_t), (unit_s, is_s) = (
            directions(side, ops.zeros_like(side[..., :1])) for side in (teacher, student)
        )
        distance = ops.sum(ops.square(unit_s - unit_t), axis=-1)
        return 0.5 * (distance + ops.abs(is_t - is_s))
