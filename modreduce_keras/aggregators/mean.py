"""Mean: every peer learns from the mean of the peers' logits."""

from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("aggregator", "mean")
class Mean(Aggregator):
    """Every peer learns from the mean of the peers' logits.

    z_e = 1/P Σ_i z_i

    Args:
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes).

    Returns:
        `targets` (batch, peers, classes) and `ensemble` (batch, classes).

    Example:
        >>> import numpy as np
        >>> Mean()(np.array([[[0.0, 2.0], [4.0, 0.0]]]))["ensemble"].numpy().tolist()
        [[2.0, 1.0]]
    """

    def call(self, logits: Tensor) -> Tensor:
        return self.same_for_all(ops.mean(logits, axis=1), logits)
