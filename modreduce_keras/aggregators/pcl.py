"""PCL: every peer learns from an ensemble on all features and from the other peers' EMA models."""

from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.arguments import is_number, require_choice
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

VARIANTS = ("paper", "modreduce")


@register("aggregator", "pcl")
class PCL(Aggregator):
    """Peer collaborative learning: an ensemble on all features, and the peers' mean teachers.

    z_e = W [h_1; ...; h_P] + b
    online_i = loss(z_e, z_i) + 1/(P - 1) Σ_{j≠i} loss(z̄_j, z_i)

    with the embeddings h and the logits z̄ of the peers' EMA models, whose weights are averages,
    θ̄ ← k θ̄ + (1 - k) θ with k = min(1 - 1/(t + 1), decay) after training step t = 0, 1, ...

    The supervised loss of z_e trains the dense layer and, through their features, the peers. No
    gradient flows through the targets. In the paper each peer sees its own augmented view
    (`student_inputs` of `mr.PeerDistiller`). The embeddings may differ in width.

    Args:
        variant: `"paper"`, the default. `"modreduce"`: as in the authors' code, the EMA weights
            are updated at the end of each epoch (t counts epochs), there is no ensemble, and the
            losses against the others' EMA models are added up, not averaged.
        decay: The largest k, from 0 to 1. Defaults to 0.999.
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes).
        features: The peers' embeddings, a list of (batch, width); for `"paper"`.
        averages: Logits of the peers' EMA models, (batch, peers, classes).

    Returns:
        For `"paper"` `targets` (batch, peers, 1 + peers, classes), the ensemble before the
        averages, `source_weights` (peers, 1 + peers): 1 for the ensemble, 1 / (P - 1) for the
        others' averages, 0 for one's own; and `ensemble` (batch, classes). For `"modreduce"`
        `targets` (batch, peers, peers, classes) and `source_weights` (peers, peers): 1 for the
        others' averages and 0 for one's own.

    Raises:
        ValueError: If an argument is out of range, the embeddings are not vectors, or something
            that it needs does not come.

    Example:
        >>> import numpy as np
        >>> pcl = PCL()
        >>> [round(float(pcl.keep(step)), 3) for step in (0, 1, 3, 10**6)]
        [0.0, 0.5, 0.75, 0.999]
        >>> features, logits = [np.ones((1, 4)), np.ones((1, 6))], np.zeros((1, 2, 3))
        >>> pcl(logits, features=features, averages=logits)["source_weights"].tolist()
        [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]

    Reference:
        Wu and Gong, Peer Collaborative Learning for Online Knowledge Distillation, 2021. Past
        selves are run in inference with averaged statistics of batch normalization; ModReduce's
        code averages the trained weights alone and normalizes by the batch.
    """

    learns = True
    needs: tuple[str, ...] = ("features", "averages")

    def __init__(
        self,
        *,
        variant: str = "paper",
        decay: float = 0.999,
        name: str | None = None,
        dtype: Any = "float32",
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if not (is_number(decay) and 0 <= decay <= 1):
            raise ValueError(f"decay must be a number from 0 to 1. Received: {decay=}")
        self.variant, self.decay = require_choice("variant", variant, VARIANTS), decay
        if variant == "modreduce":
            self.needs, self.learns, self.average_every = ("averages",), False, "epoch"

    def build(self, logits_shape: Any, features_shape: Any = None) -> None:
        super().build(logits_shape)
        if self.variant == "modreduce":
            return
        shapes = [tuple(shape) for shape in self.required("features", features_shape)]
        if any(len(shape) != 2 for shape in shapes):
            raise ValueError(
                "PCL joins the peers' embeddings, so they must be vectors (batch, width). "
                f"Received: features of shapes {shapes}"
            )
        self.dense = keras.layers.Dense(logits_shape[-1], dtype=self.dtype_policy, name="dense")
        self.dense.build((None, sum(shape[-1] for shape in shapes)))

    def call(
        self, logits: Tensor, features: Tensor | None = None, averages: Tensor | None = None
    ) -> Tensor:
        mean_teachers = self.from_others(self.required("averages", averages))
        targets, weights = mean_teachers["targets"], mean_teachers["source_weights"]
        peers = logits.shape[1]
        if self.variant == "modreduce":
            return {"targets": targets, "source_weights": (peers - 1) * weights}
        features = [ops.cast(one, "float32") for one in self.required("features", features)]
        ensemble = self.dense(ops.concatenate(features, axis=-1))
        of_ensemble = self.same_for_all(ensemble, logits)["targets"]
        return {
            "targets": ops.concatenate([ops.expand_dims(of_ensemble, 2), targets], axis=2),
            "source_weights": np.concatenate([np.ones_like(weights[:, :1]), weights], axis=1),
            "ensemble": ensemble,
        }

    def keep(self, step: Tensor) -> Tensor:
        updates = ops.cast(step, "float32") + 1.0
        return ops.minimum(1.0 - 1.0 / updates, self.decay)
