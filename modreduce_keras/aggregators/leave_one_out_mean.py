"""Leave-one-out mean: each peer learns from the mean of the other peers' logits."""

from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("aggregator", "leave_one_out_mean")
class LeaveOneOutMean(Aggregator):
    """Each peer learns from the mean of the other peers' logits: collaborative learning, CL-ILR.

    t_i = 1/(P - 1) Σ_{j≠i} z_j

    The ensemble is the mean of all logits, and is used for metrics only.

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
        >>> logits = np.array([[[0.0, 3.0], [6.0, 0.0], [0.0, 0.0]]])
        >>> LeaveOneOutMean()(logits)["targets"].numpy().tolist()
        [[[3.0, 0.0], [0.0, 1.5], [3.0, 1.5]]]

    Reference:
        Song and Chai, Collaborative Learning for Deep Neural Networks, 2018. Where the peers share
        a trunk, the paper divides the gradient that reaches it by P:
        `mr.models.branch(..., trunk_gradient="mean")`.
    """

    def call(self, logits: Tensor) -> Tensor:
        peers = logits.shape[1]
        others = (1.0 - ops.eye(peers, dtype="float32")) / (peers - 1)
        targets = ops.einsum("ij,bjc->bic", others, logits)
        return {"targets": targets, "ensemble": ops.mean(logits, axis=1)}
