"""The residual networks of the CIFAR comparison: resnet8 ... resnet110, resnet8x4, resnet32x4."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from modreduce_keras.arguments import require_integer, require_sizes
from modreduce_keras.models.blocks import Blocks, relu
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.models.variants import variant
from modreduce_keras.typing import Tensor


def resnet(
    depth: int,
    *,
    num_classes: int,
    widths: Sequence[int] = (16, 16, 32, 64),
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a CIFAR residual network of 6n + 2 layers.

    A 3×3 convolution, three stages of n basic blocks at full, half and quarter resolution, global
    average pooling and a linear classifier. A block that changes size or width has a 1×1
    convolution with batch normalization as its shortcut. Strided convolutions are padded by one
    pixel on each side, so that weights of PyTorch networks of this layout give equal outputs.

    Taps: `"stage1"`, `"stage2"`, `"stage3"` (batch, height, width, channels) after the last
    activation of each stage, `"embedding"` (batch, widths[3]), `"logits"` (batch, num_classes).

    Args:
        depth: Number of layers, 6n + 2: 8, 14, 20, 32, 44, 56, 110.
        num_classes: Number of classes.
        widths: Channels of the first convolution and of the three stages.
        input_shape: (height, width, channels); height and width at least 4.
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `f"resnet{depth}"`.

    Returns:
        A functional model from images, float, normalized by the caller, to logits.

    Raises:
        ValueError: If the depth is not 6n + 2, `widths` does not have four entries, or another
            argument is out of range.

    Example:
        >>> resnet(20, num_classes=100).count_params()
        279892

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016, in the form that Tian et
        al., Contrastive Representation Distillation, 2020, compare on.
    """
    if not isinstance(depth, (int, np.integer)) or depth < 8 or (depth - 2) % 6:
        raise ValueError(
            "depth must be 6n + 2 with n ≥ 1, such as 8, 14, 20, 32, 44, 56 or 110. "
            f"Received: {depth=}"
        )
    num_classes = require_integer("num_classes", num_classes)
    expected = "give the channels of the first convolution and of three stages"
    widths = require_sizes("widths", widths, expected, number=4)
    require_image_shape(input_shape, least=4)
    inputs = keras.Input(input_shape, name="image")
    make = Blocks(kernel_regularizer)
    maps = relu(make.normalized(inputs, widths[0], 3, "stem"), "stem")
    number = (depth - 2) // 6
    for stage, width in enumerate(widths[1:], start=1):
        for block in range(1, number + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            label = f"stage{stage}" if block == number else f"stage{stage}_block{block}"
            maps = _basic_block(make, maps, width, stride, label)
    return keras.Model(inputs, make.classifier(maps, num_classes), name=name or f"resnet{depth}")


def _basic_block(make: Blocks, maps: Tensor, width: int, stride: int, label: str) -> Tensor:
    shortcut = maps
    if stride != 1 or maps.shape[-1] != width:
        shortcut = make.normalized(maps, width, 1, f"{label}_shortcut", stride=stride)
    maps = relu(make.normalized(maps, width, 3, f"{label}_1", stride=stride), f"{label}_1_relu")
    maps = make.normalized(maps, width, 3, f"{label}_2")
    return relu(layers.Add(name=f"{label}_add")([maps, shortcut]), label)


_NARROW, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)

resnet8 = variant("resnet8", resnet, 8, widths=_NARROW, name="resnet8")
resnet14 = variant("resnet14", resnet, 14, widths=_NARROW, name="resnet14")
resnet20 = variant("resnet20", resnet, 20, widths=_NARROW, name="resnet20")
resnet32 = variant("resnet32", resnet, 32, widths=_NARROW, name="resnet32")
resnet44 = variant("resnet44", resnet, 44, widths=_NARROW, name="resnet44")
resnet56 = variant("resnet56", resnet, 56, widths=_NARROW, name="resnet56")
resnet110 = variant("resnet110", resnet, 110, widths=_NARROW, name="resnet110")
resnet8x4 = variant("resnet8x4", resnet, 8, widths=_WIDE, name="resnet8x4")
resnet32x4 = variant("resnet32x4", resnet, 32, widths=_WIDE, name="resnet32x4")
