"""Factors: a paraphraser compresses the teacher's maps, and a translator learns to speak them."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.map_base import RANKS, MapAdapter, convolution
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.arguments import is_number
from modreduce_keras.ops import float32, per_sample_mean
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


class ConvolutionChain(keras.layers.Layer):
    """3×3 convolutions in a row, each with batch normalization, if asked for, and LeakyReLU 0.1."""

    def __init__(
        self, widths: list[int], *, transposed: bool, batch_normalization: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.widths, self.transposed = widths, transposed
        self.batch_normalization = batch_normalization

    def build(self, shape: Any) -> None:
        self.convolutions = [
            convolution(
                len(shape),
                width,
                3,
                transposed=self.transposed,
                padding="same",
                dtype=self.dtype_policy,
                name=f"convolution_{i}",
            )
            for i, width in enumerate(self.widths)
        ]
        self.normalizations = [
            normalization_layer(self.dtype_policy, f"normalization_{i}")
            for i in range(len(self.widths) if self.batch_normalization else 0)
        ]
        for i, (layer, width) in enumerate(zip(self.convolutions, self.widths, strict=True)):
            layer.build(shape)
            shape = (*shape[:-1], width)
            if self.normalizations:
                self.normalizations[i].build(shape)

    def call(self, maps: Tensor, training: bool | None = None) -> Any:
        for i, layer in enumerate(self.convolutions):
            maps = layer(maps)
            if self.normalizations:
                maps = self.normalizations[i](maps, training=training)
            maps = ops.leaky_relu(maps, 0.1)
        return maps

    def learnt(self) -> list[keras.Variable]:
        """Returns what gradients change, whether it is marked as trainable or not."""
        kernels = [v for layer in self.convolutions for v in (layer.kernel, layer.bias)]
        return kernels + [v for layer in self.normalizations for v in (layer.gamma, layer.beta)]


@register("adapter", "factors")
class Factors(MapAdapter):
    """Both models' maps -> factors, of `rate` times the teacher's channels.

    The teacher's paraphraser is the encoder of an autoencoder, which is trained first and alone:
    `pretraining_loss` is mean (decoder(encoder(f_t)) - f_t)². Afterwards it stays as it is, with
    its batch normalizations at rest, and the student's translator trains with the student.

    Encoder and translator are three 3×3 convolutions with batch normalization and LeakyReLU 0.1,
    the first as wide as its input; the decoder mirrors the encoder with transposed convolutions.
    Sequences and volumes have the same convolutions in one and in three dimensions.

    Args:
        rate: Channels of the factors per channel of the teacher, positive. Defaults to 0.5.
        paraphraser_batch_normalization: Whether the paraphraser has batch normalizations.
            Defaults to `True`.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, height, width, channels).
        teacher: (batch, height, width, channels); size and channels may differ.

    Returns:
        The student's and the teacher's factors, each of its maps' height and width.

    Raises:
        ValueError: If the rate is not positive, or a feature is not a map.

    Example:
        >>> import numpy as np
        >>> factors = Factors()
        >>> student, teacher = factors(np.ones((2, 8, 8, 4)), np.ones((2, 4, 4, 6)))
        >>> tuple(student.shape), tuple(teacher.shape)
        ((2, 8, 8, 3), (2, 4, 4, 3))

    Reference:
        Kim, Park and Kwak, Paraphrasing Complex Network: Network Compression via Factor
        Transfer, 2018. `paraphraser_batch_normalization=False` is the paraphraser of the code of
        Tian et al., Contrastive Representation Distillation, 2020.
    """

    one_feature = True
    ranks = RANKS

    def __init__(
        self,
        *,
        rate: float = 0.5,
        paraphraser_batch_normalization: bool = True,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if not (is_number(rate) and rate > 0):
            raise ValueError(f"rate must be a positive number. Received: {rate=}")
        self.rate, self.paraphraser_batch_normalization = rate, paraphraser_batch_normalization

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        student_shape, teacher_shape = self.pair(student_shape, teacher_shape)
        channels = teacher_shape[-1]
        factors = max(1, int(channels * self.rate))
        self.translator = self._chain(
            [student_shape[-1], factors, factors], student_shape, "translator"
        )
        normalized = self.paraphraser_batch_normalization
        self.encoder = self._chain(
            [channels, factors, factors], teacher_shape, "encoder", batch_normalization=normalized
        )
        self.decoder = self._chain(
            [factors, channels, channels],
            (*teacher_shape[:-1], factors),
            "decoder",
            transposed=True,
            batch_normalization=normalized,
        )
        self.freeze_pretraining_variables()

    def _chain(
        self,
        widths: Any,
        shape: Any,
        name: str | None,
        *,
        transposed: bool = False,
        batch_normalization: bool = True,
    ) -> Any:
        chain = ConvolutionChain(
            widths,
            transposed=transposed,
            batch_normalization=batch_normalization,
            dtype=self.dtype_policy,
            name=name,
        )
        chain.build(shape)
        return chain

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        factors = ops.stop_gradient(self.encoder(teacher, training=False))
        return self.translator(student, training=training), factors

    def pretraining_loss(self, student: Tensor, teacher: Tensor) -> Any:
        restored = self.decoder(self.encoder(teacher, training=True), training=True)
        return per_sample_mean(ops.square(float32(restored) - float32(teacher)))

    def pretraining_variables(self) -> Any:
        return self.encoder.learnt() + self.decoder.learnt()
