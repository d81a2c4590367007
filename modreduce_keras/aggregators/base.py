"""Base class of the aggregators, which turn the peers' outputs into their targets."""

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from modreduce_keras import arguments
from modreduce_keras.typing import Tensor


class Aggregator(keras.layers.Layer):
    """Base class of all aggregators: layers for any number of peers.

    `aggregator(logits)` takes the peers' logits, (batch, peers, classes) in float32, and the
    keyword arguments that its attribute `needs` lists:

    - `features`: the peers' embeddings, a list with one (batch, width) for each peer.
    - `trunk`: the output of the layers that the peers share, (batch, ...); there is one only for
      peers made by `mr.models.branch`.
    - `inputs`: what the first peer sees, (batch, ...).
    - `labels`: class indices, (batch,), int32. If `takes_soft_labels` is true, they may also be
      the probabilities of the classes from the data, (batch, classes), which the aggregator
      checks.
    - `averages`: the logits of the peers' EMA models, (batch, peers, classes), constants. `keep`
      gives the decay.
    - `temperature`: the temperature of the online loss, a scalar.
    - `independent`: whether the outputs are independent labels, or one logit, instead of classes.
    - `plain_numbers`: whether the outputs are those of a regression instead of logits.

    It returns a dict:

    - `"targets"`: the logits that each peer is to learn from, (batch, peers, classes); or
      (batch, peers, sources, classes), where a peer learns from several at once.
    - `"source_weights"`, (peers, sources), with several sources: the online loss of a peer is the
      weighted sum of the losses against its sources. In a NumPy array, sources of weight 0 cost
      nothing.
    - `"ensemble"`, (batch, classes), optional: the logits of the ensemble. They have their own
      metrics (`ensemble/accuracy`), and where `learns` is true the supervised loss on them is
      added to the total as `ensemble/ce`.
    - the values named by `logs`: (peers,) each, logged per peer as `PEER/NAME`, or a scalar,
      logged as `NAME`.

    No gradient flows through the targets, unless `trains_through_targets` is true. The aggregator
    itself stops the gradient of the ensemble's loss where it should not reach the peers.

    To add an aggregator, write `call(logits)`, with everything it needs as further arguments (and
    `training=None` if it behaves differently in training), and register the class. If it has
    weights, also write `build(logits_shape)`, with arguments such as `features_shape` for other
    shapes that it needs, and call `super().build(logits_shape)`, which counts the peers.

    Args:
        name: Name of the layer.
        dtype: Its dtype. Defaults to float32 under every global policy.
        trainable: Whether its weights are trained. Defaults to `True`.
    """

    identifier: ClassVar[str]
    needs: tuple[str, ...] = ()
    """Arguments of `call` in addition to the logits. An instance may change those of its class."""
    learns: bool = False
    """Whether the ensemble is trained by the supervised loss."""
    output_kinds: ClassVar[tuple[str, ...] | None] = None
    """Kinds of outputs that it can merge (see `modreduce_keras.output_kind`); `None`: any."""
    takes_soft_labels: bool = False
    """Whether the labels may be probabilities of the classes, such as smoothed labels."""
    trains_through_targets: bool = False
    """Whether the gradient of the online loss flows into the targets."""
    has_leader: ClassVar[bool] = False
    """Whether the last peer is a leader: it is deployed, and the others do not learn from it."""
    least_peers: ClassVar[int] = 2
    logs: ClassVar[tuple[str, ...]] = ()
    """Names of the values that `call` returns for the logs."""
    average_every: str = "step"
    """When the EMA weights are updated: after each `"step"` or at the end of each `"epoch"`."""

    def __init__(
        self, *, name: str | None = None, dtype: Any = "float32", trainable: bool = True
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self._peers = None

    def __call__(self, logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the result of `call`, after a check of the shape of the logits."""
        shape = tuple(getattr(logits, "shape", ()))
        if len(shape) != 3:
            raise ValueError(
                f"{type(self).__name__} takes logits (batch, peers, classes), in one tensor: "
                "keras.ops.stack([...], axis=1). Received: "
                + (f"logits of shape {shape}" if shape else f"{type(logits).__name__}")
            )
        if self.built and self._peers not in (None, shape[1]):
            raise ValueError(
                f"{type(self).__name__} was built for {self._peers} peers. Received: logits of "
                f"shape {shape}, which is (batch, peers, classes)"
            )
        return super().__call__(logits, *args, **kwargs)

    def build(self, logits_shape: Any) -> None:
        """Creates the weights, from the shape of the logits, batch included.

        Raises:
            ValueError: If there are fewer peers than `least_peers`.
        """
        if logits_shape[1] is None or logits_shape[1] < self.least_peers:
            raise ValueError(
                f"{type(self).__name__} needs at least {self.least_peers} peers. Received: "
                f"{logits_shape[1]} (logits of shape {tuple(logits_shape)}, which is (batch, "
                "peers, classes))"
            )
        self._peers = logits_shape[1]

    def call(self, logits: Tensor) -> dict[str, Any]:
        """Returns the targets, and the ensemble if there is one, from the peers' logits."""
        raise NotImplementedError

    def keep(self, step: Tensor) -> Any:
        """Returns the decay of the peers' EMA weights, from 0 to 1.

        ema = keep · ema + (1 - keep) · present

        Args:
            step: The number of earlier updates, int scalar.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, those that are kept under their own names."""
        config = super().get_config()
        return {**arguments.kept(self, Aggregator, known=config), **config}

    def required(self, name: str, given: Any) -> Any:
        """Returns something that the aggregator needs (or its shape), if it came.

        Raises:
            ValueError: If it did not.
        """
        if given is None:
            raise ValueError(
                f"{type(self).__name__} needs {name}: call it with {name}=.... "
                f"Received: {name}=None"
            )
        return given

    @staticmethod
    def same_for_all(ensemble: Tensor, logits: Tensor) -> dict[str, Any]:
        """Returns the result of an aggregator in which every peer learns from the ensemble."""
        targets = ops.broadcast_to(ops.expand_dims(ensemble, 1), ops.shape(logits))
        return {"targets": targets, "ensemble": ensemble}

    @staticmethod
    def from_others(sources: Any) -> dict[str, Any]:
        """Returns the result of an aggregator in which each peer learns from every other one.

        Args:
            sources: (batch, peers, classes): what the peers teach.

        Returns:
            Targets (batch, peers, peers, classes) and weights of 1 / (peers - 1), 0 for oneself.
        """
        peers = sources.shape[1]
        targets = ops.repeat(ops.expand_dims(sources, 1), peers, axis=1)
        return {"targets": targets, "source_weights": (1.0 - np.eye(peers)) / (peers - 1)}
