"""Centred projection: the student at the teacher's width, the teacher less its running mean."""

from typing import Any

from keras import ops

from modreduce_keras.adapters.token_projection import TokenProjection
from modreduce_keras.arguments import require_number
from modreduce_keras.distribute import sum_over_replicas
from modreduce_keras.ops import along_positions, float32
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "centered_projection")
class CenteredProjection(TokenProjection):
    """Projects the student to the teacher's width, and subtracts the teacher's running mean.

    f_s W + b and f_t - c; after each training step c ← m c + (1 - m) mean f_t

    The mean is over the positions that count, of the samples of all replicas. The centre begins
    with zeros, is saved with the weights, and stays as it is in evaluation.

    Args:
        momentum: m, from 0 to below 1. Defaults to 0.9.
        use_bias: Whether there is a b. Defaults to `True`.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, ..., width).
        teacher: (batch, ..., width).

    Returns:
        Two features of the teacher's shape.

    Raises:
        ValueError: If `momentum` is out of range, or a width is not known.

    Example:
        >>> import numpy as np
        >>> adapter, ones = CenteredProjection(momentum=0.5), np.ones((2, 4), "float32")
        >>> for _ in range(3):
        ...     _, teacher = adapter(ones, ones, training=True)
        >>> teacher[0].numpy().tolist()
        [0.25, 0.25, 0.25, 0.25]

    Reference:
        Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021. There the
        projection is a head of three layers, which teacher and student both have.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.9,
        use_bias: bool = True,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(use_bias=use_bias, name=name, dtype=dtype, trainable=trainable)
        if require_number("momentum", momentum, 0.0) >= 1:
            raise ValueError(f"momentum must be from 0 to below 1. Received: {momentum=}")
        self.momentum = momentum

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        super().build(student_shape, teacher_shape)
        self.center = self.add_weight(
            name="center",
            shape=(teacher_shape[-1],),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            autocast=False,
            aggregation="only_first_replica",
        )

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        student, _ = super().call(student, teacher)
        features = float32(teacher)
        centred = ops.cast(features - self.center, teacher.dtype)
        if training:
            self._move(features, None if kept is None else kept["teacher"])
        return student, centred

    def _move(self, features: Tensor, mask: Tensor | None) -> None:
        axes = tuple(range(len(features.shape) - 1))
        weight = ops.ones_like(features[..., :1])
        if mask is not None:
            weight = weight * float32(along_positions(mask, weight))
        total = sum_over_replicas(ops.sum(features * weight, axis=axes))
        number = sum_over_replicas(ops.sum(weight))
        mean = total / ops.maximum(number, 1.0)
        moved = self.momentum * self.center + (1.0 - self.momentum) * mean
        self.center.assign(ops.where(number > 0, moved, self.center))
