"""Channel projector: 1×1 convolutions from the student's channels to the teacher's."""

from typing import Any

import keras

from modreduce_keras.adapters.map_base import RANKS, MapAdapter, convolution
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.ops import as_list, filled
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


class Projection(keras.layers.Layer):
    """A 1×1 convolution without bias, then batch normalization where it is asked for."""

    def __init__(self, filters: int, *, batch_normalization: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.batch_normalization = filters, batch_normalization

    def build(self, shape: Any) -> None:
        self.convolution = convolution(
            len(shape), self.filters, 1, use_bias=False, dtype=self.dtype_policy, name="convolution"
        )
        self.convolution.build(shape)
        self.normalization = None
        if self.batch_normalization:
            self.normalization = normalization_layer(self.dtype_policy, "normalization")
            self.normalization.build((*shape[:-1], self.filters))

    def call(self, maps: Tensor, training: bool | None = None, kept: Any = None) -> Any:
        maps = self.convolution(maps)
        if self.normalization is None:
            return maps
        mask = filled(kept, maps[..., 0])
        return self.normalization(maps, training=training, mask=mask)


@register("adapter", "channel_projector")
class ChannelProjector(MapAdapter):
    """Student maps -> the teacher's channels, by a 1×1 convolution and batch normalization.

    Each tap has a projection of its own, without bias and without activation; height and width
    (the length of sequences) stay as they are. With a mask, the statistics of the batch
    normalization are those of the positions that are kept.

    Args:
        name: Name of the layer.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, height, width, channels) or (batch, length, channels), or a list.
        teacher: As many maps, returned as they are.

    Returns:
        The student's maps with the teacher's channels, and the teacher's maps.

    Raises:
        ValueError: If the features are not maps, or not as many of both models.

    Example:
        >>> import numpy as np
        >>> student, teacher = ChannelProjector()(np.ones((1, 8, 8, 4)), np.ones((1, 8, 8, 6)))
        >>> tuple(student.shape)
        (1, 8, 8, 6)

    Reference:
        Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
        Neurons, 2019, and Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved
        Knowledge Distillation, 2021.
    """

    takes_mask = True
    ranks = RANKS

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        self.projections = []
        for i, (student, teacher) in enumerate(self.pairs(student_shape, teacher_shape)):
            projection = self.projection(student[-1], teacher[-1], f"projection_{i}")
            projection.build(student)
            self.projections.append(projection)

    def projection(self, channels: int, filters: int, name: str) -> keras.layers.Layer:
        """Returns the projection of one tap from the student's channels to the teacher's."""
        return Projection(filters, batch_normalization=True, dtype=self.dtype_policy, name=name)

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        mask = (kept or {}).get("student")
        projected = [
            project(maps, training=training, kept=mask)
            for project, maps in zip(self.projections, as_list(student), strict=True)
        ]
        return keras.tree.pack_sequence_as(student, projected), teacher
