"""The margin connector: projected student maps against a teacher cut off at a negative margin."""

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.adapters.channel_projector import ChannelProjector
from modreduce_keras.ops import as_list, float32, safe_reciprocal
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "margin_connector")
class MarginConnector(ChannelProjector):
    """Student maps -> the teacher's channels; teacher maps -> their margin ReLU.

    max(f_t, m), with m = E[f_t | f_t < 0] for each channel, the mean negative response

    The student's side is `ChannelProjector`'s. The margins come from the batch normalization
    before the teacher's activation, whose responses are taken as normal with mean β and deviation
    |γ|: m = β - |γ| φ(β / γ) / Φ(-β / |γ|), or -3 |γ| where fewer than one in a thousand is
    negative. A tap does not tell what that layer is, so it is named; without a name, m is the
    mean of all negative responses seen in training so far, this batch included.

    Args:
        normalization: Name of the teacher's `BatchNormalization`, or its path through nested
            models (`"backbone/norm"`); a list of them for several taps. Defaults to `None`:
            margins are measured. Before the first training step they are zero then.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, height, width, channels), or a list of such maps.
        teacher: As many maps, of layers before their activation.

    Returns:
        The student's maps with the teacher's channels, and the teacher's maps cut off, float32.

    Raises:
        ValueError: If the features are not maps, or not as many of both models; if a named layer
            is unknown, no batch normalization, or does not fit the tap.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[[[-1.0]], [[-3.0]], [[5.0]]]])
        >>> _, cut = MarginConnector()(np.ones((1, 3, 1, 4)), teacher, training=True)
        >>> np.array(cut).ravel().tolist()
        [-1.0, -2.0, 5.0]

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, 2019. The paper always reads
        the batch normalization, even where a residual sum follows it; measured margins are ours.
    """

    def __init__(
        self,
        *,
        normalization: str | list[str] | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        names = as_list(normalization)
        named = all(name and isinstance(name, str) for name in names)
        if not (normalization is None or (names and named)):
            raise ValueError(
                "normalization must be None, the name of a BatchNormalization of the teacher, or "
                f"a list of names. Received: {normalization=}"
            )
        self.normalization = normalization
        self._expected: Any = None  # margins, where normalizations were named

    def adopt(self, student: Tensor, teacher: Tensor) -> None:
        """Computes the margins of the named layers of the teacher."""
        if self.normalization is None:
            return
        self._expected = tuple(
            _expected_margins(teacher, name) for name in as_list(self.normalization)
        )
        if self.built:
            self._assign_expected()

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        super().build(student_shape, teacher_shape)
        channels = [teacher[-1] for _, teacher in self.pairs(student_shape, teacher_shape)]
        self.measured, self.margins = [], []
        for i, width in enumerate(channels):
            if self.normalization is None:
                self.measured.append(MeanNegative(dtype="float32", name=f"margin_{i}"))
                self.measured[i].build((None, width))
            else:
                # Weights, so that a file restores what belongs to its own teacher.
                margins = self.add_weight(
                    name=f"margin_{i}",
                    shape=(width,),
                    initializer="zeros",
                    trainable=False,
                    dtype="float32",
                    autocast=False,
                )
                self.margins.append(margins)
        if self._expected is not None:
            self._assign_expected()

    def _assign_expected(self) -> None:
        found, channels = ([m.shape[0] for m in side] for side in (self._expected, self.margins))
        if found != channels:
            raise ValueError(
                f"normalization={self.normalization!r} must name one BatchNormalization for each "
                f"tap of the teacher, with its channels. Received: taps with {channels} channels "
                f"and normalizations with {found}"
            )
        for variable, margins in zip(self.margins, self._expected, strict=True):
            variable.assign(margins)

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        student, teacher = super().call(student, teacher, training=training, kept=kept)
        maps = float32(as_list(teacher))
        if self.normalization is not None and self._expected is None:
            raise ValueError(
                "A MarginConnector with a normalization has to see the teacher first: use it in a "
                "distiller, or call adopt(student, teacher)."
            )
        margins = self.margins or [
            measure(one, training=training)
            for measure, one in zip(self.measured, maps, strict=True)
        ]
        cut = [ops.maximum(*pair) for pair in zip(maps, margins, strict=True)]
        return student, keras.tree.pack_sequence_as(teacher, cut)


class MeanNegative(keras.layers.Layer):
    """The mean of all negative values of each channel that training has shown so far."""

    def build(self, shape: Any) -> None:
        self.total, self.count = (
            self.add_weight(
                # A ratio of the two: that of their means over replicas is that of their sums.
                shape=shape[-1:],
                initializer="zeros",
                trainable=False,
                aggregation="mean",
                name=name,
            )
            for name in ("total", "count")
        )

    def call(self, maps: Tensor, training: bool | None = None) -> Any:
        total, count = self.total.value, self.count.value
        if training:
            axes = tuple(range(len(maps.shape) - 1))
            total = total + ops.sum(ops.minimum(maps, 0.0), axis=axes)
            count = count + ops.sum(ops.cast(maps < 0, "float32"), axis=axes)
            self.total.assign(total)
            self.count.assign(count)
        return total * safe_reciprocal(count)


def _expected_margins(teacher: keras.Model, path: str) -> np.ndarray:
    """Returns E[x | x < 0] of the normal responses of a batch normalization, for each channel."""
    layer = functools.reduce(lambda model, name: model.get_layer(name), path.split("/"), teacher)
    if not isinstance(layer, keras.layers.BatchNormalization):
        raise ValueError(
            f"normalization must name a BatchNormalization. Received: {path!r}, which is a "
            f"{type(layer).__name__}"
        )
    width = layer.moving_mean.shape[0]
    mean = np.zeros(width) if layer.beta is None else ops.convert_to_numpy(layer.beta)
    scale = np.ones(width) if layer.gamma is None else np.abs(ops.convert_to_numpy(layer.gamma))
    margins = [_mean_below_zero(float(m), float(s)) for m, s in zip(mean, scale, strict=True)]
    return np.array(margins, "float32")


def _mean_below_zero(mean: float, deviation: float) -> float:
    """Returns E[x | x < 0] of a normal x, or -3 deviations where x is hardly ever negative."""
    if deviation == 0.0:
        return min(mean, 0.0)
    standard = mean / deviation
    below = 0.5 * math.erfc(standard / math.sqrt(2.0))
    if below <= 0.001:
        return -3.0 * deviation
    density = math.exp(-0.5 * standard**2) / math.sqrt(2.0 * math.pi)
    return mean - deviation * density / below
