"""The queue of contrastive distillation: the embeddings of the last samples, whichever they are."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.contrastive_base import ContrastiveAdapter
from modreduce_keras.arguments import require_integer
from modreduce_keras.distribute import gather_over_replicas, place_in_global_batch
from modreduce_keras.ops import unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "contrastive_queue")
class ContrastiveQueue(ContrastiveAdapter):
    """Linear embeddings of both sides, contrasted with the last samples; needs no index.

    log (P · n) = s / τ - log Z + log n, with s = v · m for an embedding v of one side: first with
    the other side's embedding of the same sample, then with the K negatives; n = K + 1

    A positive or negative m is a constant, as in the memory bank: each direction trains its own
    side. After each training batch the embeddings of both sides, of all replicas, enter their
    queues, and the oldest leave. The queues start with random vectors of unit length; they and Z
    are weights, so a checkpoint restores them. They do not grow with the data.

    Args:
        negatives: K, how many other samples each is told from: the embeddings of the last K of
            each side are kept. With `None` none are: the negatives are the other samples of the
            batch, in training of all replicas. Defaults to 4096.
        units: Width of the embeddings. Defaults to 128.
        temperature: τ, a positive number. Defaults to 0.07.
        variant: `"reference"`, the default: Z is n · mean exp(s / τ) of the first training batch,
            as in the published code of the memory bank, so that the ratios start around 1.
            `"paper"`: Z is 1.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, ...).
        teacher: (batch, ...).
        training: Whether the queues and Z change.

    Returns:
        The log density ratios (batch, 1 + negatives) of the student's embeddings against the
        teacher's, and of the teacher's against the student's.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> student, teacher = rng.normal(size=(6, 4)), rng.normal(size=(6, 7))
        >>> queue = ContrastiveQueue(negatives=10, units=8)
        >>> [tuple(side.shape) for side in queue(student, teacher)]
        [(6, 11), (6, 11)]
        >>> in_batch = ContrastiveQueue(negatives=None, units=8)
        >>> [tuple(side.shape) for side in in_batch(student, teacher)]
        [(6, 6), (6, 6)]

    Reference:
        The loss is that of Tian, Krishnan and Isola, Contrastive Representation Distillation,
        2020; the queue that of He et al., Momentum Contrast for Unsupervised Visual
        Representation Learning, 2020, without their slowly moving encoder.
    """

    def __init__(
        self,
        *,
        negatives: int | None = 4096,
        units: int = 128,
        temperature: float = 0.07,
        variant: str = "reference",
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
        self.negatives = require_integer("negatives", negatives, optional=True)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        super().build(student_shape, teacher_shape)
        if self.negatives:
            shape = (self.negatives, self.units)
            self.student_queue, self.teacher_queue = (
                self.state(name, shape, _random_directions)
                for name in ("student_queue", "teacher_queue")
            )

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        embeddings = self.embed(student, teacher)
        latest = [ops.stop_gradient(embedding) for embedding in embeddings]
        rows = ops.shape(embeddings[0])[0]
        place = 0, rows
        if training:
            place = place_in_global_batch(rows)
            latest = [gather_over_replicas(embedding) for embedding in latest]
        scores = [
            self._scores(embedding, other, queue, place)
            for embedding, other, queue in zip(
                embeddings, reversed(latest), reversed(self._queues()), strict=True
            )
        ]
        candidates = 1 + self.negatives if self.negatives else place[1]
        ratios = self.log_ratios(scores, candidates, training)
        if training and self.negatives:
            for queue, new in zip(self._queues(), latest, strict=True):
                queue.assign(ops.concatenate([queue, new], axis=0)[-self.negatives :])
        return tuple(ratios)

    def _queues(self) -> Any:
        return [self.student_queue, self.teacher_queue] if self.negatives else [None, None]

    @staticmethod
    def _scores(embeddings: Tensor, others: Any, queue: Tensor, place: Tensor) -> Any:
        """Returns the products with the same sample's other embedding and with the negatives.

        Args:
            embeddings: (batch, units).
            others: The other side's, of the samples of all replicas.
            queue: The other side's queue, or `None`.
            place: Where the batch begins among `others`, and how many they are.
        """
        start, total = place
        own = start + ops.arange(ops.shape(embeddings)[0], dtype="int32")
        if queue is None:
            steps = ops.arange(total, dtype="int32")
            candidates = (ops.expand_dims(own, 1) + steps) % total
            products = ops.matmul(embeddings, ops.transpose(others))
            return ops.take_along_axis(products, candidates, axis=1)
        positive = ops.sum(embeddings * ops.take(others, own, axis=0), axis=1, keepdims=True)
        products = ops.matmul(embeddings, ops.transpose(ops.stop_gradient(queue)))
        return ops.concatenate([positive, products], axis=1)


def _random_directions(shape: Any, dtype: Any = None) -> Any:
    return unit(keras.random.normal(shape, dtype=dtype))
