"""Mutual learning: every peer learns from every other one."""

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("aggregator", "mutual")
class Mutual(Aggregator):
    """Deep mutual learning: every peer learns from every other one, without an ensemble.

    online_i = 1/(P - 1) Σ_{j≠i} loss(z_j, z_i)

    Args:
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes).

    Returns:
        `targets` (batch, peers, peers, classes), where [:, i, j] is what peer i learns from peer
        j, and `source_weights` (peers, peers): 1 / (P - 1), and 0 for oneself.

    Example:
        >>> import numpy as np
        >>> Mutual()(np.zeros((1, 3, 2)))["source_weights"].tolist()
        [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]

    Reference:
        Zhang et al., Deep Mutual Learning, 2018. There the peers take turns within a step, each
        learning from the outputs of those already updated; here all learn at once. The paper's
        temperature is 1; the one here is the online loss's.
    """

    def call(self, logits: Tensor) -> Tensor:
        return self.from_others(logits)
