"""Layer attention: which layers of the teacher suit which of the student, and their regressors."""

import math
from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.map_base import are_several, convolution
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.arguments import require_integer
from modreduce_keras.ops import float32, pooled_to_match, unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "layer_attention")
class LayerAttention(Adapter):
    """SemCKD's attention between all layers of the student and all of the teacher.

    score_ij = q_i · k_j, q_i = u_i(G(f_s^i)), k_j = v_j(G(f_t^j)), G(f) = F Fᵀ

    where the rows of F are the flattened maps of the batch: a sample is described by how it
    resembles the others in each layer. u and v are a dense layer, ReLU and a dense layer scaled
    to unit length, in float32. Each pair of layers has a regressor from the student's channels to
    the teacher's (1×1, 3×3 and 1×1 convolutions of twice the teacher's channels in the middle,
    with batch normalization and ReLU between them), at the smaller of both sizes. Sequences and
    volumes have the same convolutions in one and in three dimensions.

    A dense layer on rows of the (batch, batch) matrix needs a fixed width, `batch_size`. Smaller
    batches are padded with zeros, and of larger ones only the first `batch_size` columns count,
    so every batch works; at `batch_size` itself the result is the published one.

    Args:
        batch_size: Width of the similarities' rows: the size of the training batches (of one
            replica). Defaults to 64.
        factor: The queries and keys have `batch_size // factor` units, and the dense layers
            before them twice as many. Defaults to 4.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: List of maps (batch, height, width, channels), one for each student layer.
        teacher: List of maps, one for each teacher layer; the number of layers may differ.

    Returns:
        Two lists in the order (1, 1), (1, 2), ..., (2, 1), ... of (student layer, teacher layer):
        the student's projected maps, with the scores (batch, student layers, teacher layers) at
        the end, and the teacher's maps at the size of each projected one.

    Raises:
        ValueError: If `batch_size` or `factor` is out of range, or the features are not lists of
            maps.

    Example:
        >>> import numpy as np
        >>> student = [np.ones((2, 8, 8, 3)), np.ones((2, 4, 4, 5))]
        >>> projected, matched = LayerAttention(batch_size=8)(student, [np.ones((2, 4, 4, 6))])
        >>> [tuple(maps.shape) for maps in projected]
        [(2, 4, 4, 6), (2, 4, 4, 6), (2, 2, 1)]

    Reference:
        Chen et al., Cross-Layer Distillation with Semantic Calibration, 2021, as in the published
        code, which works for batches of one size only.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        factor: int = 4,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.batch_size = require_integer("batch_size", batch_size)
        self.factor = require_integer("factor", factor)
        if batch_size < 2 * factor:
            raise ValueError(
                "batch_size must be at least twice factor: queries of one unit, scaled to length "
                f"1, learn nothing. Received: {batch_size=}, {factor=}"
            )

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        sides = student_shape, teacher_shape
        known = all(map(are_several, sides))
        if not known or len({len(shape) for side in sides for shape in side}) > 1:
            raise ValueError(
                "LayerAttention needs lists of maps (batch, height, width, channels), or sequences "
                "(batch, length, channels), of one rank and of known size (models whose inputs "
                "have a full shape), such as at=['stage1', 'stage2', 'stage3']. Received: student "
                f"of shape {student_shape} and teacher of shape {teacher_shape}"
            )
        self.queries = [self._embedding(f"query_{i}") for i in range(len(student_shape))]
        self.keys = [self._embedding(f"key_{j}") for j in range(len(teacher_shape))]
        self.regressors = [
            self._regressor(one, other, f"regressor_{i}_{j}")
            for i, one in enumerate(student_shape)
            for j, other in enumerate(teacher_shape)
        ]

    def _embedding(self, name: str | None) -> Any:
        embedding = _Embedding(self.batch_size // self.factor, name=name)
        embedding.build((None, self.batch_size))
        return embedding

    def _regressor(self, student_shape: Any, teacher_shape: Any, name: str | None) -> Any:
        channels, rank = teacher_shape[-1], len(teacher_shape)
        policy = self.dtype_policy
        layers = []
        for size in (1, 3):
            layers += [
                convolution(rank, 2 * channels, size, padding="same", use_bias=False, dtype=policy),
                normalization_layer(policy),
                keras.layers.ReLU(dtype=policy),
            ]
        layers.append(convolution(rank, channels, 1, use_bias=False, dtype=policy))
        regressor = keras.Sequential(layers, name=name)
        least = map(min, zip(student_shape[1:-1], teacher_shape[1:-1], strict=True))
        regressor.build((None, *least, student_shape[-1]))
        return regressor

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        queries = self._embedded(self.queries, student)
        keys = self._embedded(self.keys, [ops.stop_gradient(maps) for maps in teacher])
        scores = ops.sum(ops.expand_dims(queries, 1) * ops.expand_dims(keys, 0), axis=-1)
        scores = ops.transpose(scores, (2, 0, 1))
        projected, matched = [], []
        for i, student_maps in enumerate(student):
            for j, teacher_maps in enumerate(teacher):
                regressor = self.regressors[i * len(teacher) + j]
                source, target = pooled_to_match(student_maps, teacher_maps)
                projected.append(regressor(source, training=training))
                matched.append(target)
        return [*projected, scores], matched

    def _embedded(self, embeddings: Tensor, layers: Any) -> Any:
        pairs = zip(embeddings, layers, strict=True)
        return ops.stack([embed(self._similarities(maps)) for embed, maps in pairs])

    def _similarities(self, maps: Tensor) -> Any:
        """Returns the rows of F Fᵀ at the built width: (batch, batch_size)."""
        rows = ops.reshape(float32(maps), (-1, math.prod(maps.shape[1:])))
        half = ops.matmul(rows, ops.transpose(ops.stop_gradient(rows)))
        # This equals F Fᵀ. Written this way, its gradient takes one matrix product instead of two.
        similarities = half + ops.transpose(half) - ops.stop_gradient(half)
        return ops.pad(similarities, ((0, 0), (0, self.batch_size)))[:, : self.batch_size]


class _Embedding(keras.layers.Layer):
    """Rows of similarities to queries or keys, (batch, units), of unit length."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        # Products over whole maps overflow and cancel in low precision.
        super().__init__(dtype="float32", **kwargs)
        self.hidden = keras.layers.Dense(2 * units, dtype="float32", name="hidden")
        self.output_layer = keras.layers.Dense(units, dtype="float32", name="output")

    def build(self, shape: Any) -> None:
        self.hidden.build(shape)
        self.output_layer.build((None, self.hidden.units))

    def call(self, similarities: Tensor) -> Any:
        return unit(self.output_layer(ops.relu(self.hidden(similarities))))
