"""FGD's global part: what the whole of the maps adds to each position, of both models."""

from typing import ClassVar

from modreduce_keras.losses.map_base import SquaredMaps
from modreduce_keras.registry import register


@register("loss", "fgd_global")
class FGDGlobal(SquaredMaps):
    """Global distillation of detectors: each position with its relation to all others.

    Σ (R(f_s) - R(f_t))² over all positions and channels, where the adapter `"global_context"` adds
    to the maps, R(f) = f + W_2 ReLU(LN(W_1 Σ_j a_j f_j)), and both blocks are learnt

    It is the last term of focal and global distillation; `"fgd"` has the others:
    `[mr.Feature("fgd", at="p3", mask="foreground"), mr.Feature("fgd_global", at="p3")]`.

    Args:
        name: Name of the loss. Defaults to `"fgd_global"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of both models with their context, (batch, ..., channels); see
            `MapLoss`.

    Returns:
        (batch,), float32; 0 where both are equal.

    Example:
        >>> import numpy as np
        >>> float(FGDGlobal()(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 0.5)))
        3.0

    Reference:
        Yang et al., Focal and Global Knowledge Distillation for Detectors, 2022, with the weight
        for detectors of one stage (those of two stages: 5e-7). Where the channels differ, the
        published code projects the student's once for all terms, and here each term has a
        projection of its own.
    """

    default_weight = 5e-6
    default_adapter: ClassVar[str | None] = "global_context"
    teacher_learns = True
