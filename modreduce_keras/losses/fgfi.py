"""FGFI: the teacher's features near the objects of an image, and nowhere else."""

from typing import ClassVar

from modreduce_keras.losses.map_base import SquaredMaps
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "fgfi")
class FGFI(SquaredMaps):
    """Fine-grained feature imitation: the teacher's features near objects, for detectors.

    1/(2 N) Σ_i Σ_c (f_ic(s) - f_ic(t))² over the N positions i of the batch that the mask keeps

    The mask tells where objects are: `mr.Feature("fgfi", at="p3", mask="near_objects")` takes it
    from the inputs. Without a mask, all positions are imitated. The paper's mask keeps a position
    where an anchor overlaps an object by more than half of the largest overlap that any anchor has
    with this object.

    Args:
        name: Name of the loss. Defaults to `"fgfi"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's maps, (batch, ..., channels), or a dict of them as `"teacher"` and of
            the `"mask"` of positions near objects, (batch, ...); see `MapLoss`.
        y_pred: The student's maps.

    Returns:
        (batch,), float32, whose mean is the value of the batch; 0 where both are equal.

    Raises:
        ValueError: If a side is not a map, or the channels differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.zeros((1, 2, 3)), np.ones((1, 2, 3))
        >>> float(FGFI()({"teacher": teacher, "mask": np.array([[1, 0]])}, student))
        1.5

    Reference:
        Wang et al., Distilling Object Detectors with Fine-grained Feature Imitation, 2019, with the
        weight of the published code; its adaptation layer is a 3×3 convolution, and ours,
        `"channel_projector"`, sees each position by itself.
    """

    default_weight = 0.01
    default_adapter: ClassVar[str | None] = "channel_projector"
    over_positions = "mean"

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        return 0.5 * super().per_position(teacher, student)
