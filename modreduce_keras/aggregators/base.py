"""What every aggregator shares: from the peers' outputs to the targets they learn from."""

from typing import Any, ClassVar

import keras
from keras import ops


class Aggregator(keras.layers.Layer):
    """Base class of all aggregators: a layer for any number of peers.

    `aggregator(logits)` takes the peers' logits, (batch, peers, classes) in float32, and returns
    a dict:

    - `"targets"`, (batch, peers, classes): the logits that each peer is to learn from. Online
      losses let no gradient flow into them.
    - `"ensemble"`, (batch, classes), optional: the group's joint logits. They get metrics of
      their own (`ensemble/accuracy`), and where `learns` is true the supervised loss on them is
      added to the total as `ensemble/ce`.
    - the values named by `logs`, (peers,) each: logged per peer as `PEER/NAME`.

    To add one, write `build(logits_shape)` where it has weights, `call(logits)`, and register the
    class. How far the ensemble's loss reaches is the aggregator's own decision: it stops the
    gradient at the logits unless its paper says otherwise.
    """

    identifier: ClassVar[str]
    learns: ClassVar[bool] = False
    """Whether the ensemble is trained by the supervised loss."""
    logs: ClassVar[tuple[str, ...]] = ()
    """Names of the values per peer that `call` returns for the logs."""

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def call(self, logits) -> dict[str, Any]:
        """Returns the targets, and where there is one the ensemble, of the peers' logits."""
        raise NotImplementedError

    @staticmethod
    def same_for_all(ensemble, logits) -> dict[str, Any]:
        """Returns the result of an aggregator in which the ensemble teaches every peer."""
        targets = ops.broadcast_to(ops.expand_dims(ensemble, 1), ops.shape(logits))
        return {"targets": targets, "ensemble": ensemble}
