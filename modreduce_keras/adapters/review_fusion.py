"""Review fusion: each stage of the student merged with the deeper ones by attention."""

from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.map_base import RANKS, are_several, convolution
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.arguments import require_integer
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "review_fusion")
class ReviewFusion(Adapter):
    """ReviewKD's attention-based fusion: mixes a stage with the deeper ones at each position.

    x = a ⊙ conv_1×1(f) + b ⊙ y, (a, b) = σ(conv_1×1([conv_1×1(f), y])), output = conv_3×3(x)

    from the deepest stage to the first, where y is the x of the next deeper stage, brought to the
    size of f (there is none at the deepest: x is its convolution). a and b are one number for each
    position. The first 1×1 convolution leads to `channels`, the 3×3 one to the teacher's; both
    are followed by batch normalization, and x is brought to the teacher's size in between. Sizes
    change by repeating the nearest value. Sequences and volumes have the same convolutions in one
    and in three dimensions.

    Args:
        channels: Channels of x, shared by all stages. Defaults to `None`: those of the student's
            last stage, at most 512.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: List of features from the first stage to the deepest: maps (batch, height, width,
            channels), all of one rank, or vectors (batch, features), which count as maps of one
            place.
        teacher: List of features, as many.

    Returns:
        Two lists of maps in the same order, of the teacher's shapes: the student's fused ones
        and the teacher's.

    Raises:
        ValueError: If `channels` is not positive, or the features are not two lists of equal
            length.

    Example:
        >>> import numpy as np
        >>> student = [np.ones((2, 8, 8, 3)), np.ones((2, 5))]
        >>> teacher = [np.ones((2, 4, 4, 6)), np.ones((2, 7))]
        >>> [tuple(maps.shape) for maps in ReviewFusion()(student, teacher)[0]]
        [(2, 4, 4, 6), (2, 1, 1, 7)]

    Reference:
        Chen et al., Distilling Knowledge via Knowledge Review, 2021, as in the published code:
        the three stages and the embedding, at=["stage1", "stage2", "stage3", "embedding"].
    """

    def __init__(
        self,
        *,
        channels: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.channels = require_integer("channels", channels, optional=True)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        sides = (student_shape, teacher_shape)
        known = all(are_several(side, ranks=(2, *RANKS)) for side in sides)
        ranks = {len(shape) for side in sides for shape in side} - {2} if known else set()
        if not known or len(student_shape) != len(teacher_shape) or len(ranks) > 1:
            raise ValueError(
                "ReviewFusion needs two lists of maps (batch, height, width, channels), sequences "
                "(batch, length, channels) or vectors (batch, features) of known size, all maps of "
                "one rank, as many of the student as of the teacher, such as at=['stage1', "
                f"'stage2', 'stage3']. Received: student of shape {student_shape} and teacher of "
                f"shape {teacher_shape}"
            )
        self.rank = max(ranks, default=4)
        width = self.channels or min(512, student_shape[-1][-1])
        deepest = len(student_shape) - 1
        self.stages = []
        for i, (one, other) in enumerate(zip(student_shape, teacher_shape, strict=True)):
            stage = _Stage(
                width,
                rank=self.rank,
                output_size=other[1:-1] or (1,) * (self.rank - 2),
                output_channels=other[-1],
                fuses=i < deepest,
                dtype=self.dtype_policy,
                name=f"stage_{i}",
            )
            stage.build((*[None] * (self.rank - 1), one[-1]))
            self.stages.append(stage)

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        outputs, deeper = [], None
        for stage, feature in zip(self.stages[::-1], student[::-1], strict=True):
            output, deeper = stage(self._as_map(feature), deeper, training=training)
            outputs.append(output)
        return outputs[::-1], [self._as_map(feature) for feature in teacher]

    def _as_map(self, feature: Tensor) -> Any:
        while len(feature.shape) < self.rank:
            feature = ops.expand_dims(feature, 1)
        return feature


class _Stage(keras.layers.Layer):
    """The fusion of one stage: returns its output and what the stage before it reviews."""

    def __init__(
        self,
        channels: Any,
        *,
        rank: int,
        output_size: Any,
        output_channels: Any,
        fuses: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rank, self.channels, self.output_size = rank, channels, tuple(output_size)
        self.reduction = self._normalized(channels, 1)
        self.expansion = self._normalized(output_channels, 3)
        self.attention = None
        if fuses:
            self.attention = convolution(
                rank, 2, 1, activation="sigmoid", dtype=self.dtype_policy, name="attention"
            )

    def _normalized(self, filters: Any, size: Any) -> Any:
        return keras.Sequential(
            [
                convolution(
                    self.rank,
                    filters,
                    size,
                    padding="same",
                    use_bias=False,
                    kernel_initializer="lecun_uniform",
                    dtype=self.dtype_policy,
                ),
                normalization_layer(self.dtype_policy),
            ]
        )

    def build(self, shape: Any) -> None:
        self.reduction.build(shape)
        self.expansion.build((*shape[:-1], self.channels))
        if self.attention is not None:
            self.attention.build((*shape[:-1], 2 * self.channels))

    def call(self, feature: Tensor, deeper: Any, training: bool | None = None) -> Any:
        mixed = self.reduction(feature, training=training)
        if self.attention is not None:
            deeper = _resized(deeper, mixed.shape[1:-1])
            shares = self.attention(ops.concatenate([mixed, deeper], axis=-1))
            mixed = mixed * shares[..., :1] + deeper * shares[..., 1:]
        mixed = _resized(mixed, self.output_size)
        return self.expansion(mixed, training=training), mixed


def _resized(maps: Tensor, sizes: Any) -> Any:
    """Returns maps at other sizes; position `i` of `n` copies floor(i · size / n)."""
    for axis, target in enumerate(sizes, start=1):
        size = maps.shape[axis]
        if target % size == 0:  # The gradient of a copy is quicker than that of `take`.
            maps = ops.repeat(maps, target // size, axis=axis) if target != size else maps
        else:
            maps = ops.take(maps, np.arange(target) * size // target, axis=axis)
    return maps
