"""Averages of the peers' logits, plain and learnt."""

import keras
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.registry import register


@register("aggregator", "mean")
class Mean(Aggregator):
    """The mean of the peers' logits teaches every peer.

    z_e = 1/P Σ_i z_i

    Call arguments:
        logits: (batch, peers, classes).

    Returns:
        `targets` (batch, peers, classes) and `ensemble` (batch, classes).

    Example:
        >>> import numpy as np
        >>> Mean()(np.array([[[0.0, 2.0], [4.0, 0.0]]]))["ensemble"].numpy().tolist()
        [[2.0, 1.0]]
    """

    def call(self, logits):
        return self.same_for_all(ops.mean(logits, axis=1), logits)


@register("aggregator", "weighted_average")
class WeightedAverage(Aggregator):
    """A learnt weighted average of the peers' logits teaches every peer.

    z_e = Σ_i softmax(w)_i z_i

    The weights learn from the supervised loss of z_e on detached logits: that loss reaches the
    weights and nothing else. They start equal. The share of each peer is logged as
    `PEER/ensemble_weight`.

    Call arguments:
        logits: (batch, peers, classes).

    Returns:
        `targets` (batch, peers, classes), `ensemble` (batch, classes) and `ensemble_weight`
        (peers,).

    Example:
        >>> import numpy as np
        >>> WeightedAverage()(np.array([[[0.0, 2.0], [4.0, 0.0]]]))["ensemble"].numpy().tolist()
        [[2.0, 1.0]]

    Reference:
        ModReduce (see `mr.ModReduce`). The authors' code replaces the weights by their
        softmax at every step, which holds them near equal; here they are free, as in the paper.
    """

    learns = True
    logs = ("ensemble_weight",)

    def build(self, logits_shape):
        self.weights_of_peers = self.add_weight(
            shape=(logits_shape[1],), initializer="zeros", name="weights_of_peers"
        )

    def call(self, logits):
        shares = ops.softmax(keras.ops.cast(self.weights_of_peers, "float32"))
        ensemble = ops.einsum("p,bpc->bc", shares, ops.stop_gradient(logits))
        return {**self.same_for_all(ensemble, logits), "ensemble_weight": shares}
