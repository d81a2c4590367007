"""The values of a loss by sample or by position, scaled for what masks leave out."""

from typing import Any

from modreduce_keras.distribute import share_over_replicas
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import reduced, spread


def compared(loss: Loss, y_true: Any, y_pred: Any, by_position: bool = False) -> Any:
    """Returns the values of a loss, (batch,), or (batch, positions...) if it has them.

    Positions that a mask keeps are scaled by the inverse of their share on all replicas.

    Args:
        loss: The loss.
        y_true: See `Loss.call`.
        y_pred: See `Loss.call`.
        by_position: Whether values per position are wanted.
    """
    values, mask = loss.by_position(y_true, y_pred)
    share = None if mask is None else share_over_replicas(mask)
    reduce = spread if by_position else reduced
    return reduce(values, mask, loss.over_positions or "mean", share)
