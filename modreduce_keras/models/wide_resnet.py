"""The wide residual networks of the CIFAR comparison: wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2."""

from typing import Any

import keras
import numpy as np
from keras import layers

from modreduce_keras.arguments import require_integer
from modreduce_keras.models.blocks import Blocks, relu
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.models.variants import variant
from modreduce_keras.typing import Tensor


def wide_resnet(
    depth: int,
    *,
    num_classes: int,
    widen_factor: int = 1,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a wide residual network of 6n + 4 layers, without dropout.

    A 3×3 convolution to 16 channels, three stages of n blocks at full, half and quarter resolution
    with 16, 32 and 64 channels times a factor, global average pooling and a linear classifier.
    Normalization and ReLU come before each convolution; a block that changes size or width has a
    1×1 convolution as its shortcut. Strided convolutions are padded by one pixel on each side, so
    that weights of PyTorch networks of this layout give equal outputs.

    Taps: `"stage1"`, `"stage2"`, `"stage3"` (batch, height, width, channels) after the
    normalization and ReLU that follow each stage, which everything after it reads; what goes into
    them, the sum of the last block, is `"stage1_add"`, ...; `"embedding"`
    (batch, 64 · widen_factor), `"logits"` (batch, num_classes). In the default size the stages are
    (32, 32, 16 k), (16, 16, 32 k) and (8, 8, 64 k).

    Args:
        depth: Number of layers, 6n + 4: 16, 40.
        num_classes: Number of classes.
        widen_factor: Multiplies the channels of the stages, k. Defaults to 1.
        input_shape: (height, width, channels); height and width at least 4.
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `f"wrn_{depth}_{widen_factor}"`.

    Returns:
        A functional model from images, float, normalized by the caller, to logits.

    Raises:
        ValueError: If the depth is not 6n + 4 or another argument is out of range.

    Example:
        >>> wide_resnet(16, widen_factor=2, num_classes=100).count_params()
        705108

    Reference:
        Zagoruyko and Komodakis, Wide Residual Networks, 2016, in the form that Tian et al.,
        Contrastive Representation Distillation, 2020, compare on.
    """
    if not isinstance(depth, (int, np.integer)) or depth < 10 or (depth - 4) % 6:
        raise ValueError(
            f"depth must be 6n + 4 with n ≥ 1, such as 10, 16 or 40. Received: {depth=}"
        )
    num_classes = require_integer("num_classes", num_classes)
    widen_factor = require_integer("widen_factor", widen_factor)
    require_image_shape(input_shape, least=4)
    inputs = keras.Input(input_shape, name="image")
    make = Blocks(kernel_regularizer)
    maps = make.convolution(inputs, 16, 3, "stem")
    number, following = (depth - 4) // 6, "stage1_block1_1"
    for stage in (1, 2, 3):
        width = 16 * 2 ** (stage - 1) * widen_factor
        for block in range(1, number + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            label = f"stage{stage}_block{block}"
            end = f"stage{stage}_add" if block == number else f"{label}_add"
            maps = _block(make, maps, width, stride, label, following, end)
            following = f"stage{stage}" if block == number else f"stage{stage}_block{block + 1}_1"
    maps = relu(make.normalization(maps, following), following)
    logits = make.classifier(maps, num_classes)
    return keras.Model(inputs, logits, name=name or f"wrn_{depth}_{widen_factor}")


def _block(
    make: Blocks, maps: Tensor, width: int, stride: int, label: str, first: Any, end: str
) -> Tensor:
    """Two convolutions after normalization and ReLU, the first of which are called `first`."""
    active = relu(make.normalization(maps, first), first)
    shortcut = maps
    if maps.shape[-1] != width:
        shortcut = make.convolution(active, width, 1, f"{label}_shortcut", stride=stride)
    maps = make.convolution(active, width, 3, f"{label}_1", stride=stride)
    maps = relu(make.normalization(maps, f"{label}_2"), f"{label}_2")
    maps = make.convolution(maps, width, 3, f"{label}_2")
    return layers.Add(name=end)([maps, shortcut])


wrn_16_1 = variant("wrn_16_1", wide_resnet, 16, widen_factor=1)
wrn_16_2 = variant("wrn_16_2", wide_resnet, 16, widen_factor=2)
wrn_40_1 = variant("wrn_40_1", wide_resnet, 40, widen_factor=1)
wrn_40_2 = variant("wrn_40_2", wide_resnet, 40, widen_factor=2)
