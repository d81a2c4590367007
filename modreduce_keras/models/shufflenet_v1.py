"""ShuffleNet with three groups, as the CIFAR comparison has it."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from modreduce_keras.arguments import require_integer, require_sizes
from modreduce_keras.models.blocks import Blocks, relu, shuffle
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

_STEM = 24


@register("model", "shufflenet_v1")
def shufflenet_v1(
    *,
    num_classes: int,
    widths: Sequence[int] = (240, 480, 960),
    blocks: Sequence[int] = (4, 8, 4),
    groups: int = 3,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds ShuffleNet for images of 32 × 32 pixels.

    A 1×1 convolution to 24 channels, three stages at half, quarter and eighth resolution, global
    average pooling and a linear classifier. A block is a 1×1 convolution in groups to a quarter of
    its channels, a shuffle of the channels, a depthwise 3×3 convolution and a 1×1 convolution in
    groups; the first of a stage is strided, and the average of 3×3 of its inputs is appended
    instead of added. Strided layers are padded by one pixel on each side, so that weights of
    PyTorch networks of this layout give equal outputs.

    As in the comparison, and unlike the paper, there is a ReLU after the depthwise convolution,
    and the first convolution is neither 3×3 nor strided nor pooled.

    Taps: `"stage1"`, `"stage2"`, `"stage3"` (batch, height, width, channels) after the last ReLU
    of each stage; `"embedding"` (batch, widths[2]), `"logits"` (batch, num_classes). In the default
    size the stages are (16, 16, 240), (8, 8, 480) and (4, 4, 960).

    Args:
        num_classes: Number of classes.
        widths: Channels of the three stages, each more than those before it by a multiple of
            `4 · groups`, and itself a multiple of it.
        blocks: Number of blocks of the three stages.
        groups: Groups of the 1×1 convolutions; the very first of the blocks has one.
        input_shape: (height, width, channels), known; height and width at least 8.
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `"shufflenet_v1"`.

    Returns:
        A functional model from images, float, normalized by the caller, to logits.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = shufflenet_v1(num_classes=100, widths=(48, 96, 192), blocks=(1, 1, 1))
        >>> model.get_layer("stage3").output.shape
        (None, 4, 4, 192)

    Reference:
        Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile
        Devices, 2018, in the form that Tian et al., Contrastive Representation Distillation, 2020,
        compare on.
    """
    num_classes = require_integer("num_classes", num_classes)
    groups = require_integer("groups", groups)
    widths = require_sizes("widths", widths, "give the channels of three stages", number=3)
    numbers = require_sizes("blocks", blocks, "give the blocks of three stages", number=3)
    _require_divisible(widths, groups)
    require_image_shape(input_shape, least=8, known=True)
    make = Blocks(kernel_regularizer, "uniform")
    inputs = keras.Input(input_shape, name="image")
    maps = relu(make.normalized(inputs, _STEM, 1, "stem"), "stem")
    for stage, (width, number) in enumerate(zip(widths, numbers, strict=True), start=1):
        for block in range(1, number + 1):
            label = f"stage{stage}" if block == number else f"stage{stage}_block{block}"
            first = 1 if stage == block == 1 else groups
            stride = 2 if block == 1 else 1
            maps = _bottleneck(make, maps, width, stride, (first, groups), label)
    logits = make.classifier(maps, num_classes)
    return keras.Model(inputs, logits, name=name or "shufflenet_v1")


def _bottleneck(
    make: Blocks, maps: Tensor, width: int, stride: int, groups: Any, label: str
) -> Tensor:
    shortcut = maps
    if stride == 2:
        width -= maps.shape[-1]
        shortcut = layers.ZeroPadding2D(1, name=f"{label}_shortcut_pad")(maps)
        shortcut = layers.AveragePooling2D(3, 2, name=f"{label}_shortcut")(shortcut)
    maps = make.normalized(maps, width // 4, 1, f"{label}_1", groups=groups[0])
    maps = relu(maps, f"{label}_1_relu")
    if groups[0] > 1:
        maps = shuffle(maps, groups[0], f"{label}_shuffle")
    maps = relu(make.depthwise(maps, f"{label}_2", stride), f"{label}_2_relu")
    maps = make.normalized(maps, width, 1, f"{label}_3", groups=groups[1])
    join = layers.Concatenate if stride == 2 else layers.Add
    return relu(join(name=f"{label}_join")([maps, shortcut]), label)


def _require_divisible(widths: Any, groups: Any) -> None:
    steps = [width - before for width, before in zip(widths, (_STEM, *widths), strict=False)]
    if min(steps) < 1 or any(width % (4 * groups) for width in (*steps, *widths)):
        raise ValueError(
            f"widths must be multiples of 4 · groups = {4 * groups}, each more than the one before "
            f"it (the first convolution has {_STEM}) by a multiple of it. "
            f"Received: {widths=} with {groups=}"
        )
