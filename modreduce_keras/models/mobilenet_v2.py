"""MobileNetV2 of half width, as the CIFAR comparison has it."""

from typing import Any

import keras
from keras import layers

from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.models.blocks import Blocks, relu
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

# Expansion, channels at full width, blocks, stride of the first.
_STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 1)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


@register("model", "mobilenet_v2")
def mobilenet_v2(
    *,
    num_classes: int,
    width_multiplier: float = 0.5,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds MobileNetV2 for images of 32 × 32 pixels.

    A strided 3×3 convolution, 17 inverted residual blocks (1×1 convolution to six times the
    channels, depthwise 3×3, linear 1×1 back), a 1×1 convolution to 1,280 channels, global average
    pooling and a linear classifier. Strided convolutions are padded by one pixel on each side, so
    that weights of PyTorch networks of this layout give equal outputs.

    As in the comparison, and unlike the paper, the fourth group of channels (24) is not strided,
    activations are ReLU without the limit of 6, and the first block too has a 1×1 convolution
    before its depthwise one.

    Taps: `"stage1"` ... `"stage4"` (batch, height, width, channels), the linear ends of the last
    block at each resolution: there is no activation after them; `"head"` after the ReLU of the
    last convolution; `"embedding"` (batch, 1280), `"logits"` (batch, num_classes). In the default
    size they are (16, 16, 12), (8, 8, 16), (4, 4, 48), (2, 2, 160) and (2, 2, 1280).

    Args:
        num_classes: Number of classes.
        width_multiplier: Multiplies the channels of the blocks, rounded down. The last convolution
            has fewer than 1,280 channels never, more above 1. Defaults to 0.5.
        input_shape: (height, width, channels); height and width at least 16.
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `"mobilenet_v2"`.

    Returns:
        A functional model from images, float, normalized by the caller, to logits.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> mobilenet_v2(num_classes=100).get_layer("stage4").output.shape
        (None, 2, 2, 160)

    Reference:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, in the form
        that Tian et al., Contrastive Representation Distillation, 2020, compare on.
    """
    num_classes = require_integer("num_classes", num_classes)
    require_number("width_multiplier", width_multiplier, 1 / 16)
    require_image_shape(input_shape, least=16)
    inputs = keras.Input(input_shape, name="image")
    make = Blocks(kernel_regularizer)
    width = int(32 * width_multiplier)
    maps = relu(make.normalized(inputs, width, 3, "stem", stride=2), "stem")
    for stage, groups in enumerate(_STAGES, start=1):
        settings = [
            (expansion, int(channels * width_multiplier), first if block == 0 else 1)
            for expansion, channels, number, first in groups
            for block in range(number)
        ]
        for block, (expansion, width, stride) in enumerate(settings, start=1):
            end = f"stage{stage}" if block == len(settings) else f"stage{stage}_block{block}"
            label = f"stage{stage}_block{block}"
            maps = _inverted_residual(make, maps, expansion, width, stride, label, end)
    width = int(1280 * max(width_multiplier, 1.0))
    maps = relu(make.normalized(maps, width, 1, "head"), "head")
    classifier = keras.initializers.RandomNormal(stddev=0.01)
    logits = make.classifier(maps, num_classes, classifier)
    return keras.Model(inputs, logits, name=name or "mobilenet_v2")


def _inverted_residual(
    make: Blocks, maps: Tensor, expansion: Any, width: int, stride: int, label: str, end: str
) -> Tensor:
    shortcut = maps
    maps = make.normalized(maps, expansion * maps.shape[-1], 1, f"{label}_1")
    maps = relu(maps, f"{label}_1_relu")
    maps = relu(make.depthwise(maps, f"{label}_2", stride), f"{label}_2_relu")
    maps = make.normalized(maps, width, 1, f"{label}_3")
    if stride == 1 and shortcut.shape[-1] == width:
        return layers.Add(name=end)([maps, shortcut])
    return layers.Activation("linear", name=end)(maps)
