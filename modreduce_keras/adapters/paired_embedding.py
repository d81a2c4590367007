"""Paired embedding: both sides in one space, of a width that a loss can rely on."""

from typing import Any

from modreduce_keras.adapters.linear_embedding import LinearEmbedding
from modreduce_keras.arguments import require_integer
from modreduce_keras.registry import register


@register("adapter", "paired_embedding")
class PairedEmbedding(LinearEmbedding):
    """Linear layers, with bias, that embed the student's and the teacher's flattened features.

    It is `LinearEmbedding` with a number of units: each side has weights of its own, and both are
    learnt.

    Args:
        units: Width of the embeddings. Defaults to 128.
        normalize: Whether the embeddings are scaled to unit length. Defaults to `False`.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student, teacher: (batch, ...), see `LinearEmbedding`.

    Returns:
        Both embeddings, (batch, units).

    Raises:
        ValueError: If `units` is not a positive integer; see `LinearEmbedding`, too.

    Example:
        >>> import numpy as np
        >>> student, teacher = PairedEmbedding()(np.ones((2, 4, 4, 3)), np.ones((2, 10)))
        >>> tuple(student.shape), tuple(teacher.shape)
        ((2, 128), (2, 128))

    Reference:
        Tian, Krishnan and Isola, Contrastive Representation Distillation, 2020, whose published
        code embeds both sides so for correlation congruence.
    """

    def __init__(
        self,
        *,
        units: int = 128,
        normalize: bool = False,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(
            units=require_integer("units", units),
            normalize=normalize,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
