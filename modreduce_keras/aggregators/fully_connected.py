"""A dense layer that turns all peers' logits into those of the ensemble."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("aggregator", "fully_connected")
class FullyConnected(Aggregator):
    """Every peer learns from a dense layer on all peers' logits.

    z_e = W [z_1; ...; z_P] + b

    The layer is trained by the supervised loss of z_e. No gradient of that loss reaches the peers.

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
        >>> aggregator = FullyConnected()
        >>> aggregator.build((None, 2, 2))
        >>> aggregator.set_weights([np.arange(8).reshape(4, 2), np.array([0.0, 0.5])])
        >>> logits = np.array([[[1.0, 0.0], [0.0, 1.0]]])  # picks the rows (0, 1) and (6, 7)
        >>> aggregator(logits)["ensemble"].numpy().tolist()
        [[6.0, 8.5]]

    Reference:
        ModReduce (see `mr.ModReduce`), which takes two or three peers; here any number.
    """

    learns = True

    def build(self, logits_shape: Any) -> None:
        super().build(logits_shape)
        _, peers, classes = logits_shape
        self.dense = keras.layers.Dense(classes, dtype=self.dtype_policy, name="dense")
        self.dense.build((None, peers * classes))

    def call(self, logits: Tensor) -> Tensor:
        _, peers, classes = logits.shape
        side_by_side = ops.reshape(ops.stop_gradient(logits), (-1, peers * classes))
        return self.same_for_all(self.dense(side_by_side), logits)
