"""The masked generator: it makes the teacher's maps from what a mask leaves of the student's."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.map_base import RANKS, MapAdapter, convolution
from modreduce_keras.arguments import is_number, require_choice, require_integer
from modreduce_keras.ops import pooled_to_match
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

MASKS = ("positions", "channels")


@register("adapter", "masked_generator")
class MaskedGenerator(MapAdapter):
    """Student maps, partly masked -> the teacher's maps.

    G(mask · a(f_s)), with G a 3×3 convolution, ReLU and another 3×3 convolution, and a a 1×1
    convolution where the numbers of channels differ

    In training, every position (or channel) of every sample is set to zero with probability
    `ratio`, anew in each step; otherwise nothing is masked. Maps of unequal height or width are
    averaged down to the smaller one first. Sequences and volumes have the same convolutions in one
    and in three dimensions.

    Args:
        ratio: Probability of being masked, at least 0 and below 1. Defaults to 0.5.
        mask: What is masked as a whole: `"positions"`, with all their channels, or `"channels"`,
            everywhere. Defaults to `"positions"`.
        seed: Seed of the masks, for runs that repeat. Defaults to `None`: drawn from Keras' own
            seed, so that `keras.utils.set_random_seed` is enough.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, height, width, channels).
        teacher: (batch, height, width, channels); size and channels may differ.

    Returns:
        The generated maps, and the teacher's at their size.

    Raises:
        ValueError: If an argument is none of those above, or a feature is not a map.

    Example:
        >>> import numpy as np
        >>> generated, _ = MaskedGenerator()(np.ones((2, 8, 8, 4)), np.ones((2, 4, 4, 6)))
        >>> tuple(generated.shape)
        (2, 4, 4, 6)

    Reference:
        Yang et al., Masked Generative Distillation, 2022: ratio 0.5 for classification, 0.65 to
        0.75 for dense prediction. The published code masks channels for classification, with
        ratio 0.15.
    """

    one_feature = True
    ranks = RANKS

    def __init__(
        self,
        *,
        ratio: float = 0.5,
        mask: str = "positions",
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if not (is_number(ratio) and 0 <= ratio < 1):
            raise ValueError(f"ratio must be at least 0 and below 1. Received: {ratio=}")
        self.ratio, self.seed = ratio, require_integer("seed", seed, 0, optional=True)
        self.mask = require_choice("mask", mask, MASKS)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        student_shape, teacher_shape = self.pair(student_shape, teacher_shape)
        filters = teacher_shape[-1]
        self.alignment = None
        if student_shape[-1] != filters:
            self.alignment = self._convolution(filters, 1, student_shape, "alignment")
        self.generation = [
            self._convolution(filters, 3, teacher_shape, f"generation_{i}", activation)
            for i, activation in enumerate(["relu", None])
        ]
        self.random = keras.random.SeedGenerator(self.seed)

    def _convolution(
        self, filters: Any, size: Any, shape: Any, name: str | None, activation: Any = None
    ) -> Any:
        layer = convolution(
            len(shape),
            filters,
            size,
            padding="same",
            activation=activation,
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build(shape)
        return layer

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        maps, teacher = pooled_to_match(student, teacher)
        if self.alignment is not None:
            maps = self.alignment(maps)
        if training:
            batch, *positions, channels = ops.shape(maps)
            by_channel = self.mask == "channels"
            alike = (*[1] * len(positions), channels) if by_channel else (*positions, 1)
            kept = keras.random.uniform((batch, *alike), seed=self.random) >= self.ratio
            maps = maps * ops.cast(kept, maps.dtype)
        for layer in self.generation:
            maps = layer(maps)
        return maps, teacher
