"""The VGG networks of the CIFAR comparison: vgg8, vgg11, vgg13, vgg16 and vgg19."""

from collections.abc import Sequence

import keras
from keras import layers

from modreduce_keras.arguments import require_integer, require_sizes
from modreduce_keras.models.blocks import Blocks, relu
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.models.variants import variant

_CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def vgg(
    depth: int,
    *,
    num_classes: int,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    input_shape: tuple[int, int, int] = (32, 32, 3),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a VGG network with batch normalization and one linear layer as its classifier.

    Five stages of 3×3 convolutions, each with normalization and ReLU, the first four at full,
    half, quarter and eighth resolution, maxima of 2×2 pixels between them; the fifth stays at an
    eighth. Global average pooling and a linear classifier stand for the three layers of the paper.

    Taps: `"stage1"` ... `"stage5"` (batch, height, width, channels) after the last ReLU of each
    stage, before the pooling; `"embedding"` (batch, widths[4]), `"logits"` (batch, num_classes).
    In the default size the stages are (32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512) and
    (4, 4, 512).

    Args:
        depth: 8, 11, 13, 16 or 19; the number of the paper's layers.
        num_classes: Number of classes.
        widths: Channels of the five stages.
        input_shape: (height, width, channels); height and width at least 8.
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `f"vgg{depth}"`.

    Returns:
        A functional model from images, float, normalized by the caller, to logits.

    Raises:
        ValueError: If the depth is another one, `widths` does not have five entries, or another
            argument is out of range.

    Example:
        >>> vgg(8, num_classes=100, widths=(8, 16, 16, 32, 32)).count_params()
        21316

    Reference:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
        2015, in the form that Tian et al., Contrastive Representation Distillation, 2020, compare
        on.
    """
    if isinstance(depth, bool) or depth not in _CONVOLUTIONS:
        raise ValueError(f"depth must be one of {list(_CONVOLUTIONS)}. Received: {depth=}")
    num_classes = require_integer("num_classes", num_classes)
    widths = require_sizes("widths", widths, "give the channels of five stages", number=5)
    require_image_shape(input_shape, least=8)
    inputs = maps = keras.Input(input_shape, name="image")
    make = Blocks(kernel_regularizer)
    for stage, (width, number) in enumerate(zip(widths, _CONVOLUTIONS[depth], strict=True), 1):
        if 1 < stage < 5:
            maps = layers.MaxPooling2D(2, name=f"stage{stage}_pool")(maps)
        for block in range(1, number + 1):
            label = f"stage{stage}" if block == number else f"stage{stage}_block{block}"
            maps = relu(make.normalized(maps, width, 3, label, use_bias=True), label)
    classifier = keras.initializers.RandomNormal(stddev=0.01)
    logits = make.classifier(maps, num_classes, classifier)
    return keras.Model(inputs, logits, name=name or f"vgg{depth}")


vgg8 = variant("vgg8", vgg, 8)
vgg11 = variant("vgg11", vgg, 11)
vgg13 = variant("vgg13", vgg, 13)
vgg16 = variant("vgg16", vgg, 16)
vgg19 = variant("vgg19", vgg, 19)
