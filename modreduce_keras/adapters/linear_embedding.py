"""Linear embedding: brings features of any shape into one vector space."""

import math
from typing import Any

import keras

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.arguments import require_bool, require_integer
from modreduce_keras.ops import flatten, unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "linear_embedding")
class LinearEmbedding(Adapter):
    """A linear layer on the flattened feature, with bias.

    Positions that a mask leaves out enter as zeros, so they add nothing to the embedding.

    Args:
        units: Width of the embedding. With a number, student and teacher are both embedded, each
            by weights of its own. Defaults to `None`: only the student is, to the teacher's
            width, and the teacher's feature stays as it is.
        normalize: Whether the embeddings are scaled to unit length. Defaults to `False`.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, ...).
        teacher: (batch, ...).

    Returns:
        Two tensors of shape (batch, units).

    Raises:
        ValueError: If `units` is not a positive integer, or a feature's size is not known.

    Example:
        >>> import numpy as np
        >>> student, teacher = LinearEmbedding()(np.ones((2, 4, 4, 3)), np.ones((2, 10)))
        >>> tuple(student.shape), tuple(teacher.shape)
        ((2, 10), (2, 10))

    Reference:
        Tian et al., Contrastive Representation Distillation, 2020 (two embeddings of 128 units,
        normalized).
    """

    one_feature = True
    takes_mask = True
    keeps_positions = False

    def __init__(
        self,
        *,
        units: int | None = None,
        normalize: bool = False,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.units = require_integer("units", units, optional=True)
        self.normalize = require_bool("normalize", normalize)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        if None in student_shape[1:] or None in teacher_shape[1:]:
            raise ValueError(
                "LinearEmbedding needs features of known size; adapter='orthogonal_projector' "
                "averages over positions, of any size. Received: student of shape "
                f"{tuple(student_shape)} and teacher of shape {tuple(teacher_shape)}"
            )
        student_size, teacher_size = math.prod(student_shape[1:]), math.prod(teacher_shape[1:])
        units = self.units or teacher_size
        self.student_embedding = self._dense(units, student_size, "student_embedding")
        self.teacher_embedding = self.units and self._dense(
            units, teacher_size, "teacher_embedding"
        )

    def _dense(self, units: Any, size: Any, name: str | None) -> Any:
        dense = keras.layers.Dense(units, dtype=self.dtype_policy, name=name)
        dense.build((None, size))
        return dense

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        student, teacher = self.student_embedding(flatten(student)), flatten(teacher)
        if self.teacher_embedding:
            teacher = self.teacher_embedding(teacher)
        if self.normalize:
            student, teacher = unit(student), unit(teacher)
        return student, teacher
