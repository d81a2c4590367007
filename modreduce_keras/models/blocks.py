"""Building blocks of the networks: convolutions with batch normalization, padded on both sides."""

from typing import Any

import keras
from keras import layers

from modreduce_keras.typing import Tensor

_BATCH_NORMALIZATION = {"momentum": 0.9, "epsilon": 1e-5}
_INITIALIZERS = {
    "he": ((2.0, "fan_out", "untruncated_normal"), (2.0, "fan_in", "untruncated_normal")),
    "uniform": ((1.0 / 3.0, "fan_in", "uniform"), (1.0 / 3.0, "fan_out", "uniform")),
}
"""Of convolutions and of depthwise ones, whose fans Keras counts the other way around."""


class Blocks:
    """Makes the layers of one network, which share an initializer and a regularizer.

    Args:
        kernel_regularizer: Regularizer of every kernel, as its caller gave it.
        initializer: Of convolutions of k × k pixels: `"he"`, normal with variance 2 / (k² · output
            channels), or `"uniform"`, within ±1 / √(inputs of one output).
    """

    def __init__(
        self,
        kernel_regularizer: str | keras.regularizers.Regularizer | None,
        initializer: str = "he",
    ) -> None:
        self._regularizer = keras.regularizers.get(kernel_regularizer)
        self._plain, self._depthwise = _INITIALIZERS[initializer]

    def convolution(
        self,
        maps: keras.KerasTensor,
        width: int,
        size: int,
        label: str,
        *,
        stride: int = 1,
        groups: int = 1,
        use_bias: bool = False,
    ) -> keras.KerasTensor:
        """Returns a convolution of maps, padded so that stride 1 keeps their size."""
        maps, padding = _padded(maps, size, stride, label)
        return layers.Conv2D(
            width,
            size,
            strides=stride,
            padding=padding,
            groups=groups,
            use_bias=use_bias,
            kernel_initializer=keras.initializers.VarianceScaling(*self._plain),
            kernel_regularizer=self._regularizer,
            name=f"{label}_conv",
        )(maps)

    def normalized(
        self, maps: keras.KerasTensor, width: int, size: int, label: str, **options: Any
    ) -> keras.KerasTensor:
        """Returns a convolution of maps with batch normalization."""
        return self.normalization(self.convolution(maps, width, size, label, **options), label)

    def depthwise(self, maps: keras.KerasTensor, label: str, stride: int) -> keras.KerasTensor:
        """Returns a 3×3 convolution of each channel by itself, with batch normalization."""
        maps, padding = _padded(maps, 3, stride, label)
        maps = layers.DepthwiseConv2D(
            3,
            strides=stride,
            padding=padding,
            use_bias=False,
            depthwise_initializer=keras.initializers.VarianceScaling(*self._depthwise),
            depthwise_regularizer=self._regularizer,
            name=f"{label}_conv",
        )(maps)
        return self.normalization(maps, label)

    def normalization(self, maps: keras.KerasTensor, label: str) -> keras.KerasTensor:
        """Returns batch-normalized maps."""
        return layers.BatchNormalization(**_BATCH_NORMALIZATION, name=f"{label}_norm")(maps)

    def classifier(
        self,
        maps: keras.KerasTensor,
        num_classes: int,
        initializer: str | keras.initializers.Initializer = "glorot_uniform",
    ) -> keras.KerasTensor:
        """Returns the logits of a linear classifier on the average of the maps, `"embedding"`."""
        embedding = layers.GlobalAveragePooling2D(name="embedding")(maps)
        return layers.Dense(
            num_classes,
            kernel_initializer=initializer,
            kernel_regularizer=self._regularizer,
            name="logits",
        )(embedding)


def relu(maps: keras.KerasTensor, label: str) -> keras.KerasTensor:
    """Returns the maps after ReLU, in a layer of this name."""
    return layers.ReLU(name=label)(maps)


def shuffle(maps: keras.KerasTensor, groups: int, label: str) -> keras.KerasTensor:
    """Returns the channels in another order: the first of each group, the second of each, ..."""
    height, width, channels = maps.shape[1:]
    split = (height, width, groups, channels // groups)
    maps = layers.Reshape(split, name=f"{label}_groups")(maps)
    maps = layers.Permute((1, 2, 4, 3), name=f"{label}_permute")(maps)
    return layers.Reshape((height, width, channels), name=label)(maps)


def _padded(maps: Tensor, size: Any, stride: int, label: str) -> tuple[Any, Any]:
    """Returns the maps and the padding that is left to the convolution."""
    if stride == 1 or size == 1:
        return maps, "same"
    return layers.ZeroPadding2D(size // 2, name=f"{label}_pad")(maps), "valid"
