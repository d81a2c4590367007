"""Global context: maps with what the whole of them adds to each position."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.map_base import RANKS, MapAdapter
from modreduce_keras.ops import pooled_to_match
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

_SMALL = 1e-3


class _ContextBlock(keras.layers.Layer):
    """f + W_2 ReLU(LN(W_1 c)) with the context c = Σ_i a_i f_i, a = softmax over i of w · f_i."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape: Any) -> None:
        channels = shape[-1]

        def dense(units: int, name: str, **kwargs: Any) -> keras.layers.Dense:
            return keras.layers.Dense(units, dtype=self.dtype_policy, name=name, **kwargs)

        # A bias would add a constant to what the softmax is of.
        self.attention = dense(1, "attention", use_bias=False, kernel_initializer="he_normal")
        self.narrow = dense(max(1, channels // 2), "narrow")
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=self.dtype_policy, name="norm"
        )
        small = keras.initializers.RandomNormal(stddev=_SMALL)
        self.widen = dense(channels, "widen", kernel_initializer=small)
        for layer in (self.attention, self.narrow):
            layer.build((None, channels))
        self.norm.build((None, self.narrow.units))
        self.widen.build((None, self.narrow.units))

    def call(self, maps: Tensor) -> Tensor:
        batch, *places, channels = ops.shape(maps)
        flat = ops.reshape(maps, (batch, -1, maps.shape[-1]))
        shares = ops.softmax(self.attention(flat), axis=1)
        context = ops.sum(shares * flat, axis=1)
        added = self.widen(ops.relu(self.norm(self.narrow(context))))
        return maps + ops.reshape(added, (batch, *[1] * len(places), channels))


@register("adapter", "global_context")
class GlobalContext(MapAdapter):
    """Maps of both models, with what the whole of them adds to each position.

    R(f)_i = f_i + W_2 ReLU(LN(W_1 Σ_j a_j f_j)), a = softmax over the positions j of w · f_j

    Each side has a block of its own, and both are learnt. A student of other channels than its
    teacher goes through a 1×1 convolution first.

    Args:
        name: Name of the layer.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student, teacher: (batch, ..., channels): maps, sequences or volumes. The larger ones are
            averaged down to the size of the smaller ones.

    Returns:
        Both, with the teacher's channels.

    Raises:
        ValueError: If the features are no maps, or of several taps.

    Example:
        >>> import numpy as np
        >>> student, teacher = np.ones((1, 4, 4, 2)), np.ones((1, 4, 4, 6))
        >>> tuple(GlobalContext()(student, teacher)[0].shape)
        (1, 4, 4, 6)

    Reference:
        Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, 2019, for
        the block, with half of the channels inside, as in Yang et al., Focal and Global Knowledge
        Distillation for Detectors, 2022. The published code begins with W_2 at zero; ours is small
        at random, so that all weights have a gradient from the first step on.
    """

    one_feature = True
    ranks = RANKS

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        student_shape, teacher_shape = self.pair(student_shape, teacher_shape)
        channels = teacher_shape[-1]
        self.alignment = None
        if student_shape[-1] != channels:
            self.alignment = keras.layers.Dense(channels, dtype=self.dtype_policy, name="alignment")
            self.alignment.build(student_shape)
        self.student_context = _ContextBlock(dtype=self.dtype_policy, name="student_context")
        self.teacher_context = _ContextBlock(dtype=self.dtype_policy, name="teacher_context")
        for block in (self.student_context, self.teacher_context):
            block.build(teacher_shape)

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        student, teacher = pooled_to_match(student, teacher)
        if self.alignment is not None:
            student = self.alignment(student)
        return self.student_context(student), self.teacher_context(teacher)
