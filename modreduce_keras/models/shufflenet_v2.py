"""ShuffleNetV2 as the CIFAR comparison has it: shufflenet_v2 and shufflenet_v2_x1_5."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from modreduce_keras.arguments import require_integer, require_sizes
from modreduce_keras.models.blocks import Blocks, relu, shuffle
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("model", "shufflenet_v2")
def shufflenet_v2(
    *,
    num_classes: int,
    widths: Sequence[int] = (116, 232, 464, 1024),
    blocks: Sequence[int] = (4, 8, 4),
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds ShuffleNetV2 for images of 32 × 32 pixels.

    A 1×1 convolution to 24 channels, three stages at half, quarter and eighth resolution, a 1×1
    convolution, global average pooling and a linear classifier. A block leaves half of its
    channels as they are, gives the other half a 1×1, a depthwise 3×3 and a 1×1 convolution, and
    shuffles both; the first of a stage works on all channels in two strided branches. Strided
    convolutions are padded by one pixel on each side, so that weights of PyTorch networks of this
    layout give equal outputs.

    As in the comparison, and unlike the paper, the first convolution is neither 3×3 nor strided
    nor pooled.

    Taps: `"stage1"`, `"stage2"`, `"stage3"` (batch, height, width, channels) after the last
    shuffle of each stage; `"head"` after the ReLU of the last convolution; `"embedding"`
    (batch, widths[3]), `"logits"` (batch, num_classes). In the default size they are
    (16, 16, 116), (8, 8, 232), (4, 4, 464) and (4, 4, 1024).

    Args:
        num_classes: Number of classes.
        widths: Channels of the three stages, even, and of the last convolution;
            (176, 352, 704, 1024) for `"shufflenet_v2_x1_5"`.
        blocks: Number of blocks of the three stages.
        input_shape: (height, width, channels), known; height and width at least 8.
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `"shufflenet_v2"`.

    Returns:
        A functional model from images, float, normalized by the caller, to logits.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = shufflenet_v2(num_classes=100, widths=(8, 16, 32, 64), blocks=(1, 1, 1))
        >>> model.get_layer("stage3").output.shape
        (None, 4, 4, 32)

    Reference:
        Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, 2018,
        in the form that Tian et al., Contrastive Representation Distillation, 2020, compare on.
    """
    num_classes = require_integer("num_classes", num_classes)
    expected = "give the channels of three stages, even ones, and of the last convolution"
    widths = require_sizes("widths", widths, expected, number=4)
    if any(width % 2 for width in widths[:3]):
        raise ValueError(f"widths must {expected}. Received: {widths=}")
    numbers = require_sizes("blocks", blocks, "give the blocks of three stages", number=3)
    require_image_shape(input_shape, least=8, known=True)
    make = Blocks(kernel_regularizer, "uniform")
    inputs = keras.Input(input_shape, name="image")
    maps = relu(make.normalized(inputs, 24, 1, "stem"), "stem")
    for stage, (width, number) in enumerate(zip(widths[:3], numbers, strict=True), start=1):
        for block in range(1, number + 1):
            label = f"stage{stage}" if block == number else f"stage{stage}_block{block}"
            branches = _two_branches if block == 1 else _one_branch
            both = branches(make, maps, width // 2, label)
            maps = layers.Concatenate(name=f"{label}_join")(both)
            maps = shuffle(maps, 2, label)
    maps = relu(make.normalized(maps, widths[3], 1, "head"), "head")
    logits = make.classifier(maps, num_classes)
    return keras.Model(inputs, logits, name=name or "shufflenet_v2")


def _one_branch(make: Blocks, maps: Tensor, width: int, label: str) -> list[Any]:
    kept, maps = ops.split(maps, 2, axis=-1)
    return [kept, _branch(make, maps, width, 1, label)]


def _two_branches(make: Blocks, maps: Tensor, width: int, label: str) -> list[Any]:
    short = make.depthwise(maps, f"{label}_short_1", 2)
    short = relu(make.normalized(short, width, 1, f"{label}_short_2"), f"{label}_short_2_relu")
    return [short, _branch(make, maps, width, 2, label)]


def _branch(make: Blocks, maps: Tensor, width: int, stride: int, label: str) -> Tensor:
    maps = relu(make.normalized(maps, width, 1, f"{label}_1"), f"{label}_1_relu")
    maps = make.depthwise(maps, f"{label}_2", stride)
    return relu(make.normalized(maps, width, 1, f"{label}_3"), f"{label}_3_relu")


@register("model", "shufflenet_v2_x1_5")
def shufflenet_v2_x1_5(
    *,
    num_classes: int,
    widths: Sequence[int] = (176, 352, 704, 1024),
    blocks: Sequence[int] = (4, 8, 4),
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds shufflenet_v2_x1_5: `shufflenet_v2(widths=(176, 352, 704, 1024), ...)`."""
    return shufflenet_v2(
        num_classes=num_classes,
        widths=widths,
        blocks=blocks,
        input_shape=input_shape,
        kernel_regularizer=kernel_regularizer,
        name=name or "shufflenet_v2_x1_5",
    )
