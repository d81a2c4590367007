"""Weighted average: every peer learns from a learnt average of the peers' logits."""

from typing import Any

from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.arguments import require_choice
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

VARIANTS = ("paper", "modreduce")


@register("aggregator", "weighted_average")
class WeightedAverage(Aggregator):
    """Every peer learns from a learnt weighted average of the peers' logits.

    z_e = Σ_i softmax(w)_i z_i

    The weights are trained by the supervised loss of z_e. No gradient of that loss reaches the
    peers. The weights are equal at first. The share of each peer is logged as
    `PEER/ensemble_weight`.

    Args:
        variant: `"paper"`, the default: the weights are unconstrained. `"modreduce"`: as in the
            authors' code, each training step first replaces the weights by their softmax and uses
            these as the shares, z_e = Σ_i w_i z_i, which keeps them almost equal.
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes).
        training: Whether it is a training step, which updates the weights of `"modreduce"`.

    Returns:
        `targets` (batch, peers, classes), `ensemble` (batch, classes) and `ensemble_weight`
        (peers,).

    Raises:
        ValueError: If the variant is unknown.

    Example:
        >>> import numpy as np
        >>> WeightedAverage()(np.array([[[0.0, 2.0], [4.0, 0.0]]]))["ensemble"].numpy().tolist()
        [[2.0, 1.0]]

    Reference:
        ModReduce (see `mr.ModReduce`), which takes two or three peers; here any number.
    """

    learns = True
    logs = ("ensemble_weight",)

    def __init__(
        self,
        *,
        variant: str = "paper",
        name: str | None = None,
        dtype: Any = "float32",
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.variant = require_choice("variant", variant, VARIANTS)

    def build(self, logits_shape: Any) -> None:
        super().build(logits_shape)
        self.weights_of_peers = self.add_weight(
            shape=(logits_shape[1],),
            initializer="zeros",
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
            name="weights_of_peers",
        )

    def call(self, logits: Tensor, training: bool | None = None) -> Tensor:
        weights = ops.convert_to_tensor(self.weights_of_peers)
        shares = ops.softmax(weights)
        if training and self.variant == "modreduce":
            constant = ops.stop_gradient(shares)
            # The value of the softmax, and the gradient of the weights that it replaces.
            shares = weights + ops.stop_gradient(constant - weights)
            self.weights_of_peers.assign(constant)
        ensemble = ops.einsum("p,bpc->bc", shares, ops.stop_gradient(logits))
        return {**self.same_for_all(ensemble, logits), "ensemble_weight": shares}
