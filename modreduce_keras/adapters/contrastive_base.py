"""The base of the contrastive adapters: both embeddings, and log density ratios from scores."""

from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.linear_embedding import LinearEmbedding
from modreduce_keras.arguments import is_number, require_choice, require_integer
from modreduce_keras.distribute import gather_over_replicas
from modreduce_keras.ops import float32, unit
from modreduce_keras.typing import Tensor

VARIANTS = ("paper", "reference")


class ContrastiveAdapter(Adapter):
    """Base class: embeds both sides at unit length and turns their products into log ratios.

    log ratio = s / τ - log Z + log n, where s is the product of two embeddings

    Positions that a mask leaves out enter the embeddings as zeros, so they add nothing.

    Z is a number for each direction. With `variant="reference"` it is set by the first training
    batch, to n · mean exp(s / τ) over all its pairs and replicas, and kept from then on; before
    that, it is computed from the batch at hand. With `variant="paper"` it is 1.
    """

    one_feature = True
    takes_mask = True
    keeps_positions = False

    def __init__(
        self,
        *,
        units: int,
        temperature: float,
        variant: str,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if not (is_number(temperature) and temperature > 0):
            raise ValueError(f"temperature must be a positive number. Received: {temperature=}")
        self.units, self.temperature = require_integer("units", units), temperature
        self.variant = require_choice("variant", variant, VARIANTS)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        self.embedding = LinearEmbedding(
            units=self.units, normalize=True, dtype=self.dtype_policy, name="embedding"
        )
        self.embedding.build(student_shape, teacher_shape)
        # One for each direction: the student's embedding first, then the teacher's.
        self.log_normalizers = self.state("log_normalizers", (2,), _unset)

    def state(self, name: str, shape: tuple[int, ...], initializer: Any) -> keras.Variable:
        """Returns a weight that is remembered, not trained, in float32, alike on all replicas."""
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
        )

    def embed(self, student: Tensor, teacher: Tensor) -> list[Any]:
        """Returns both embeddings, (batch, units), float32, of unit length."""
        return [unit(float32(side)) for side in self.embedding(student, teacher)]

    def log_ratios(self, scores: Tensor, candidates: Tensor, training: bool | None) -> list[Any]:
        """Returns the log density ratios of both directions.

        Args:
            scores: Products of the student's and of the teacher's embeddings with those of the
                candidates, [(batch, candidates)] * 2. A very negative one counts for nothing.
            candidates: n, the number that the noise draws from, a number or a scalar.
            training: Whether the first batch sets Z.
        """
        scores = [score / self.temperature for score in scores]
        log_candidates = ops.log(ops.cast(candidates, "float32"))
        if self.variant == "paper":
            return [score + log_candidates for score in scores]
        stored = ops.convert_to_tensor(self.log_normalizers)
        is_set = ops.isfinite(stored)
        estimate = log_candidates + _log_mean_exp(scores, training, ops.all(is_set))
        log_z = ops.where(is_set, stored, estimate)
        if training:
            self.log_normalizers.assign(log_z)
        return [score - (log_z[i] - log_candidates) for i, score in enumerate(scores)]


def _unset(shape: Any, dtype: Any = None) -> Any:
    return ops.full(shape, -np.inf, dtype)


def _log_mean_exp(scores: Any, training: bool | None, is_needless: Tensor) -> Any:
    """Returns log mean exp of both directions, (2,); in training over the pairs of all replicas.

    If `is_needless`, it is not computed, and the result is not to be used.
    """
    scores = [ops.stop_gradient(score) for score in scores]
    by_row = ops.cond(
        is_needless,
        lambda: ops.stack([score[:, 0] for score in scores], axis=1),
        lambda: ops.stack([ops.logsumexp(score, axis=1) for score in scores], axis=1),
    )
    if training:
        by_row = gather_over_replicas(by_row)
    pairs = ops.shape(by_row)[0] * ops.shape(scores[0])[1]
    return ops.logsumexp(by_row, axis=0) - ops.log(ops.cast(pairs, "float32"))
