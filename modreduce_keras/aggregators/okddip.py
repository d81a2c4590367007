"""OKDDip: targets for each peer by attention among the peers, and a leader that learns from all."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.aggregators.mixing import mixed_probabilities
from modreduce_keras.arguments import require_bool, require_choice, require_integer
from modreduce_keras.ops import safe_sqrt
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

VARIANTS = ("paper", "reference")


@register("aggregator", "okddip")
class OKDDip(Aggregator):
    """Online distillation with diverse peers: attention among the peers, and a leader.

    a_ij = softmax_j((W_q h_i) · (W_k h_j)) over the group, oneself included
    t_i = Σ_j a_ij softmax(z_j / T), and for the leader t = 1/(P - 1) Σ_j softmax(z_j / T)

    The group is all peers except the last, which is the leader. The leader learns from the group's
    mean, no peer learns from it, and it is the student to deploy. The embeddings h have equal
    widths.

    W_q and W_k are trained by the online loss only, through the targets. This gradient also reaches
    the embeddings and the logits that a target is computed from (the leader's loss too).

    The ensemble is the mean of the group's logits, and is used for metrics only. The diversity of
    the group is logged as `diversity`: the Euclidean distance between the probabilities of two
    peers, or the outputs of a regression, averaged over all pairs and the batch.

    Args:
        variant: `"paper"`, the default, mixes softened probabilities. `"reference"` mixes logits,
            as the published code does: t_i = Σ_j a_ij z_j, and the leader's is their mean.
        units: Width of the queries and keys. Defaults to `None`: an eighth of the embeddings'.
        trains_through_targets: Whether the gradient flows through the targets, as in the published
            code. `False` makes them constants; W_q and W_k then stay as they are. Defaults to
            `True`.
        name: See `Aggregator`.
        dtype: See `Aggregator`.
        trainable: See `Aggregator`.

    Call arguments:
        logits: (batch, peers, classes); the last peer is the leader.
        features: The peers' embeddings, a list of (batch, width).
        temperature: T, a scalar; `"reference"` does without.
        independent: Whether the outputs are independent labels and not classes: softmax is then
            sigmoid. Defaults to `False`.
        plain_numbers: Whether the outputs are those of a regression, which have no probabilities;
            for `"reference"`. Defaults to `False`.

    Returns:
        `targets` (batch, peers, classes), `ensemble` (batch, classes) and `diversity`, a scalar.
        Softened at T, the targets of `"paper"` are the mixtures.

    Raises:
        ValueError: If an argument is out of range, there are fewer than three peers, or the
            embeddings are not vectors of equal widths.

    Example:
        >>> import numpy as np
        >>> logits = np.log([[[0.75, 0.25], [0.25, 0.75], [0.9, 0.1]]])
        >>> features = [np.ones((1, 16))] * 3
        >>> targets = OKDDip()(logits, features=features, temperature=1.0)["targets"]
        >>> np.round(np.exp(targets), 4).tolist()
        [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]]

    Reference:
        Chen et al., Online Knowledge Distillation with Diverse Peers, 2020.
    """

    needs = ("features", "temperature", "independent")
    has_leader = True
    least_peers = 3
    logs = ("diversity",)

    def __init__(
        self,
        *,
        variant: str = "paper",
        units: int | None = None,
        trains_through_targets: bool = True,
        name: str | None = None,
        dtype: Any = "float32",
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.variant = require_choice("variant", variant, VARIANTS)
        self.units = require_integer("units", units, optional=True)
        self.trains_through_targets = require_bool("trains_through_targets", trains_through_targets)
        if variant == "reference":
            self.needs = ("features", "independent", "plain_numbers")

    def build(self, logits_shape: Any, features_shape: Any = None) -> None:
        super().build(logits_shape)
        shapes = [tuple(shape) for shape in self.required("features", features_shape)]
        if any(len(shape) != 2 for shape in shapes) or len({shape[-1] for shape in shapes}) > 1:
            raise ValueError(
                "OKDDip compares the peers' embeddings, so they must be vectors (batch, width) of "
                f"equal widths. Received: features of shapes {shapes}"
            )
        width = shapes[0][-1]
        self.query, self.key = (
            keras.layers.Dense(
                self.units or max(1, width // 8),
                use_bias=False,
                trainable=self.trains_through_targets,
                dtype=self.dtype_policy,
                name=name,
            )
            for name in ("query", "key")
        )
        for projection in (self.query, self.key):
            projection.build((None, None, width))

    def call(
        self,
        logits: Tensor,
        features: Tensor | None = None,
        temperature: Any = None,
        independent: Tensor = False,
        plain_numbers: bool = False,
    ) -> Tensor:
        group = logits[:, :-1]
        log_attention = self.log_attention(self.required("features", features)[:-1])
        mean = ops.mean(group, axis=1)
        if self.variant == "reference":
            own = ops.einsum("bij,bjc->bic", ops.exp(log_attention), group)
            leaders = ops.expand_dims(mean, 1)
        else:
            temperature = self.required("temperature", temperature)
            own = mixed_probabilities(group, log_attention, temperature, independent)
            alike = ops.full((1, group.shape[1]), 1.0 / group.shape[1], "float32")
            leaders = mixed_probabilities(group, ops.log(alike), temperature, independent)
        return {
            "targets": ops.concatenate([own, leaders], axis=1),
            "ensemble": mean,
            "diversity": _diversity(
                _compared(ops.stop_gradient(group), independent, plain_numbers)
            ),
        }

    def log_attention(self, features: Tensor) -> Tensor:
        """Returns the logarithm of a, (batch, group, group), for the group's embeddings."""
        embeddings = ops.stack([ops.cast(one, "float32") for one in features], axis=1)
        scores = ops.einsum("biu,bju->bij", self.query(embeddings), self.key(embeddings))
        return ops.log_softmax(scores, axis=-1)


def _compared(logits: Tensor, independent: Tensor, plain_numbers: bool) -> Tensor:
    """Returns what the distance is computed of: probabilities, or the outputs of a regression."""
    if plain_numbers:
        return logits
    return ops.sigmoid(logits) if independent else ops.softmax(logits)


def _diversity(answers: Tensor) -> Tensor:
    """Returns the mean distance of two peers' answers, over the batch and all pairs."""
    peers = answers.shape[1]
    total = 0.0
    for shift in range(1, peers):
        distances = safe_sqrt(
            ops.sum(ops.square(answers - ops.roll(answers, shift, axis=1)), axis=-1)
        )
        total = total + ops.mean(distances)
    return total / (peers - 1)
