"""ResNet50 for small images, as the CIFAR comparison has it."""

from collections.abc import Sequence

import keras
from keras import layers

from modreduce_keras.arguments import require_integer, require_sizes
from modreduce_keras.models.blocks import Blocks, relu
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

_EXPANSION = 4


@register("model", "resnet50")
def resnet50(
    *,
    num_classes: int,
    widths: Sequence[int] = (64, 64, 128, 256, 512),
    blocks: Sequence[int] = (3, 4, 6, 3),
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds ResNet50 with a 3×3 convolution, neither strided nor pooled, in front.

    Four stages of bottleneck blocks (1×1, 3×3 and 1×1 convolution to four times the channels) at
    full, half, quarter and eighth resolution, global average pooling and a linear classifier. A
    block that changes size or width has a 1×1 convolution with batch normalization as its
    shortcut. The 3×3 convolution is the strided one, padded by one pixel on each side, so that
    weights of PyTorch networks of this layout give equal outputs.

    Taps: `"stage1"` ... `"stage4"` (batch, height, width, channels) after the last activation of
    each stage, `"embedding"` (batch, 4 · widths[4]), `"logits"` (batch, num_classes). In the
    default size the stages are (32, 32, 256), (16, 16, 512), (8, 8, 1024) and (4, 4, 2048).

    Args:
        num_classes: Number of classes.
        widths: Channels of the first convolution and of the 3×3 ones of the four stages.
        blocks: Number of blocks of the four stages.
        input_shape: (height, width, channels); height and width at least 8.
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `"resnet50"`.

    Returns:
        A functional model from images, float, normalized by the caller, to logits.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = resnet50(num_classes=100, widths=(4, 4, 8, 16, 32), blocks=(1, 1, 1, 1))
        >>> model.get_layer("stage4").output.shape
        (None, 4, 4, 128)

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016, in the form that Tian et
        al., Contrastive Representation Distillation, 2020, compare on.
    """
    num_classes = require_integer("num_classes", num_classes)
    expected = "give the channels of the first convolution and of four stages"
    widths = require_sizes("widths", widths, expected, number=5)
    numbers = require_sizes("blocks", blocks, "give the blocks of four stages", number=4)
    require_image_shape(input_shape, least=8)
    inputs = keras.Input(input_shape, name="image")
    make = Blocks(kernel_regularizer)
    maps = relu(make.normalized(inputs, widths[0], 3, "stem"), "stem")
    for stage, (width, number) in enumerate(zip(widths[1:], numbers, strict=True), start=1):
        for block in range(1, number + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            label = f"stage{stage}" if block == number else f"stage{stage}_block{block}"
            maps = _bottleneck(make, maps, width, stride, label)
    logits = make.classifier(maps, num_classes)
    return keras.Model(inputs, logits, name=name or "resnet50")


def _bottleneck(make: Blocks, maps: Tensor, width: int, stride: int, label: str) -> Tensor:
    shortcut, outer = maps, _EXPANSION * width
    if stride != 1 or maps.shape[-1] != outer:
        shortcut = make.normalized(maps, outer, 1, f"{label}_shortcut", stride=stride)
    maps = relu(make.normalized(maps, width, 1, f"{label}_1"), f"{label}_1_relu")
    maps = relu(make.normalized(maps, width, 3, f"{label}_2", stride=stride), f"{label}_2_relu")
    maps = make.normalized(maps, outer, 1, f"{label}_3")
    return relu(layers.Add(name=f"{label}_add")([maps, shortcut]), label)
