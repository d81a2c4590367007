"""Masked generative distillation: the teacher's maps made again from a part of the student's."""

from modreduce_keras.losses.map_base import SquaredMaps
from modreduce_keras.registry import register


@register("loss", "mgd")
class MGD(SquaredMaps):
    """Masked generative distillation's loss: the squared error of the generated maps.

    Σ (g - f_t)² over all positions and channels, where g = G(mask · f_s) is what the adapter
    `"masked_generator"` makes of the student's maps

    Args:
        name: Name of the loss. Defaults to `"mgd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Maps of teacher and generator, (batch, ..., channels); see `MapLoss`.

    Returns:
        (batch,), float32; 0 where both are equal.

    Example:
        >>> import numpy as np
        >>> float(MGD()(np.zeros((1, 2, 2, 3)), np.full((1, 2, 2, 3), 0.5)))
        3.0

    Reference:
        Yang et al., Masked Generative Distillation, 2022, with the weight for classification, as in
        the published code; for dense prediction both take 2e-5.
    """

    default_weight = 7e-5
    default_adapter = "masked_generator"
