"""The memory bank of contrastive distillation: one embedding for each training sample."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.adapters.contrastive_base import ContrastiveAdapter
from modreduce_keras.arguments import is_number, require_choice, require_integer
from modreduce_keras.distribute import (
    assign_rows,
    changed_by_rows,
    gather_over_replicas,
    place_in_global_batch,
    require_sample_index,
    take_from_rows,
    take_rows,
)
from modreduce_keras.ops import unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

# Far below every product of embeddings, and finite when divided by a temperature.
_LEFT_OUT = -1e9
# Up to so many samples for each negative, the products with the whole bank are cheaper than
# (batch, negatives, units) rows of it, and so much smaller.
_DENSE_UP_TO = 8


@register("adapter", "contrastive_memory")
class ContrastiveMemory(ContrastiveAdapter):
    """Linear embeddings of both sides, and a bank of the last embedding of every sample.

    log (P · n) = s / τ - log Z + log n, with s = v · m for an embedding v of the batch and an
    embedding m of the other side's bank: first the sample's own, then the negatives'

    The bank tells training samples apart by their index, so it needs the index in the data:
    `distiller.fit(mr.data.with_index(dataset).shuffle(...).batch(64))`. After each training batch
    the rows of its samples move to momentum · old + (1 - momentum) · new, at unit length, on all
    replicas alike. The banks and Z are weights, so a checkpoint restores them; they are not
    trained.

    Args:
        samples: n, the number of training samples; every index lies below it.
        negatives: K, how many other samples each is told from. Defaults to 16384.
        units: Width of the embeddings. Defaults to 128.
        temperature: τ, a positive number. Defaults to 0.07.
        momentum: How much of a row is kept when its sample comes by, from 0 to 1. Defaults to 0.5.
        sampling: `"per_sample"`, the default: each sample has negatives of its own, drawn from all
            others. `"shared"`: one draw serves the batch, at the cost of one matrix product; a
            negative that is the sample itself is left out.
        variant: `"reference"`, the default: Z is n · mean exp(s / τ) of the first training batch,
            as in the published code, so that the ratios start around 1. `"paper"`: Z is 1.
        seed: Seed of the draws. Defaults to `None`: a random one.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, ...).
        teacher: (batch, ...).
        index: The indices of the samples in the training data, (batch,), int.
        training: Whether negatives are drawn at random and the banks and Z change. Otherwise the
            negatives are the next K samples (shared: the first K) and nothing changes.

    Returns:
        The log density ratios (batch, 1 + negatives) of the student's embeddings against the
        teacher's bank, and of the teacher's against the student's.

    Raises:
        ValueError: If an argument is out of range, no index comes, it is not (batch,), or one
            lies outside of the data. In a `tf.function` that is not a distiller's the last is a
            `tf.errors.InvalidArgumentError`, and is not noticed where XLA compiles it.

    Example:
        >>> import numpy as np
        >>> memory = ContrastiveMemory(samples=10, negatives=4, units=8)
        >>> sides = memory(np.ones((2, 4, 4, 3)), np.ones((2, 10)), index=np.array([7, 0]))
        >>> [tuple(side.shape) for side in sides]
        [(2, 5), (2, 5)]

    Reference:
        Tian, Krishnan and Isola, Contrastive Representation Distillation, 2020. The published
        training draws negatives from other classes only, without replacement; here they come from
        all other samples, with replacement (the paper's product of marginals), so of as many
        classes as the data have, that share is of the sample's own.
    """

    needs_index = True

    def __init__(
        self,
        *,
        samples: int | None = None,
        negatives: int = 16384,
        units: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        sampling: str = "per_sample",
        variant: str = "reference",
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(
            units=units,
            temperature=temperature,
            variant=variant,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        if samples is None:
            raise ValueError(
                "ContrastiveMemory needs the number of training samples: "
                "adapter=mr.adapters.ContrastiveMemory(samples=50000); "
                "adapter='contrastive_queue' goes without. Received: samples=None"
            )
        if not (is_number(momentum) and 0 <= momentum <= 1):
            raise ValueError(f"momentum must be a number from 0 to 1. Received: {momentum=}")
        self.samples = require_integer("samples", samples, 2)
        self.negatives = require_integer("negatives", negatives)
        self.sampling = require_choice("sampling", sampling, SAMPLINGS)
        self._draw: Any = SAMPLINGS[sampling](self.samples, self.negatives)
        self.momentum = momentum
        self.seed = require_integer("seed", seed, 0, optional=True)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        super().build(student_shape, teacher_shape)
        self.draws = keras.random.SeedGenerator(self.seed)
        limit = (3.0 / self.units) ** 0.5
        shape = (self.samples, self.units)
        self.student_bank, self.teacher_bank = (
            changed_by_rows(
                self.state(name, shape, keras.initializers.RandomUniform(-limit, limit))
            )
            for name in ("student_bank", "teacher_bank")
        )

    def call(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor | None = None,
        training: bool | None = None,
        kept: Any = None,
    ) -> Any:
        index = self._checked(index)
        embeddings = self.embed(student, teacher)
        negatives = self.draw_negatives(index, training)
        others = self.teacher_bank, self.student_bank
        scores = [
            self._draw.scores(embedding, bank, index, negatives)
            for embedding, bank in zip(embeddings, others, strict=True)
        ]
        ratios = self.log_ratios(scores, self.samples, training)
        if training:
            self._remember(index, embeddings)
        return tuple(ratios)

    def _checked(self, index: Tensor | None) -> Any:
        if index is None:
            raise ValueError(
                "CRD needs each sample's index in the training data, so fit on samples with one: "
                "samples = tf.data.Dataset.from_tensor_slices((x, y)), "
                "fit(mr.data.with_index(samples).batch(64)). Received: index=None"
            )
        return require_sample_index(index, self.samples, "ContrastiveMemory")

    def draw_negatives(self, index: Tensor | None, training: bool | None = None) -> Any:
        """Returns the indices of the negatives: (batch, negatives), or (negatives,) where shared.

        Each replica draws for the batch of all, and takes its part: two draw what one does.
        """
        return self._draw.random(index, self.draws) if training else self._draw.fixed(index)

    def _remember(self, index: Tensor | None, embeddings: Tensor) -> None:
        index = gather_over_replicas(index)
        for bank, new in zip((self.student_bank, self.teacher_bank), embeddings, strict=True):
            new = gather_over_replicas(ops.stop_gradient(new))
            old = take_rows(bank, index)
            assign_rows(bank, index, unit(self.momentum * old + (1.0 - self.momentum) * new))


@dataclass(frozen=True)
class _OwnNegatives:
    """Negatives of each sample's own, (batch, negatives): drawn from all other samples."""

    samples: int
    negatives: int

    def fixed(self, index: Tensor | None) -> Any:
        """Returns the next samples after each, which need no random numbers."""
        steps = 1 + np.arange(self.negatives) % (self.samples - 1)
        return self._after(index, steps.astype("int32"))

    def random(self, index: Tensor | None, seed: int) -> Any:
        """Returns others, drawn for the batch of all replicas: the part of this one."""
        rows = ops.shape(index)[0]
        start, total = place_in_global_batch(rows)
        steps = keras.random.randint((total, self.negatives), 1, self.samples, seed=seed)
        return self._after(index, steps[start : start + rows])

    def _after(self, index: Tensor | None, steps: Any) -> Any:
        """Returns the indices some steps after each index, modulo the samples; never the index."""
        later = ops.expand_dims(index, 1) + steps
        # Index and steps are both below `samples`: one subtraction is enough, and faster than `%`.
        return ops.where(later < self.samples, later, later - self.samples)

    def scores(
        self, embeddings: Tensor, bank: Tensor, index: Tensor | None, negatives: Tensor
    ) -> Any:
        """Returns the products with the bank's own row and with the negatives."""
        candidates = ops.concatenate([ops.expand_dims(index, 1), negatives], axis=1)
        if self.samples <= _DENSE_UP_TO * self.negatives:
            products = ops.matmul(embeddings, ops.transpose(ops.stop_gradient(bank)))
            return take_from_rows(products, candidates)
        return ops.einsum("bu,bku->bk", embeddings, take_rows(bank, candidates))


@dataclass(frozen=True)
class _SharedNegatives:
    """Negatives that serve the whole batch, (negatives,): drawn from all samples."""

    samples: int
    negatives: int

    def fixed(self, index: Tensor | None) -> Any:
        """Returns the first samples, which need no random numbers."""
        return ops.convert_to_tensor((np.arange(self.negatives) % self.samples).astype("int32"))

    def random(self, index: Tensor | None, seed: int) -> Any:
        """Returns samples that are drawn, alike on all replicas."""
        return keras.random.randint((self.negatives,), 0, self.samples, seed=seed)

    def scores(
        self, embeddings: Tensor, bank: Tensor, index: Tensor | None, negatives: Tensor
    ) -> Any:
        """Returns the products with the bank's own row and with the negatives but oneself."""
        positive = ops.sum(embeddings * take_rows(bank, index), axis=1, keepdims=True)
        products = ops.matmul(embeddings, ops.transpose(take_rows(bank, negatives)))
        products = ops.where(ops.equal(negatives, ops.expand_dims(index, 1)), _LEFT_OUT, products)
        return ops.concatenate([positive, products], axis=1)


SAMPLINGS = {"per_sample": _OwnNegatives, "shared": _SharedNegatives}
