"""Flow channels: projections to the teacher's channels, only where they differ."""

from typing import Any

import keras

from modreduce_keras.adapters.channel_projector import ChannelProjector, Projection
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


class _Same(keras.layers.Identity):
    """What a projection is where there is nothing to project."""

    def call(self, maps: Tensor, training: bool | None = None, kept: Any = None) -> Any:
        return maps


@register("adapter", "flow_channels")
class FlowChannels(ChannelProjector):
    """Student maps -> the teacher's channels, by a 1×1 convolution where they differ.

    Without bias, normalization and activation. Maps that have the teacher's number of channels
    pass untouched and cost no weights.

    Args:
        name: Name of the layer.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student, teacher: Maps, or lists of as many, see `ChannelProjector`.

    Returns:
        Both, the student's with the teacher's channels.

    Raises:
        ValueError: If the features are not maps, or not as many of both models.

    Example:
        >>> import numpy as np
        >>> teacher = [np.ones((1, 8, 8, 6)), np.ones((1, 4, 4, 9))]
        >>> student = [np.ones((1, 8, 8, 2)), np.ones((1, 4, 4, 9))]
        >>> adapter = FlowChannels()
        >>> [tuple(maps.shape) for maps in adapter(student, teacher)[0]], adapter.count_params()
        ([(1, 8, 8, 6), (1, 4, 4, 9)], 12)

    Reference:
        Yim et al., A Gift from Knowledge Distillation, 2017, compares layers of equal widths
        only; the projection is ours.
    """

    def projection(self, channels: Any, filters: Any, name: str | None) -> Any:
        if channels == filters:
            return _Same(dtype=self.dtype_policy, name=name)
        return Projection(filters, batch_normalization=False, dtype=self.dtype_policy, name=name)
