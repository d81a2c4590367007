"""A small plain convolutional network for quick starts and tests."""

from collections.abc import Sequence

import keras
from keras import layers

from modreduce_keras.arguments import require_integer, require_sizes
from modreduce_keras.models.shapes import require_image_shape
from modreduce_keras.registry import register


@register("model", "convnet")
def convnet(
    *,
    num_classes: int,
    widths: Sequence[int] = (16, 32, 64),
    strides: int | Sequence[int] = 2,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds a plain network: per stage a 3×3 convolution, batch normalization and ReLU.

    Taps: `"stage1"`, `"stage2"`, ... (batch, height, width, channels), `"embedding"`
    (batch, widths[-1]), `"logits"` (batch, num_classes).

    Args:
        num_classes: Number of classes.
        widths: Channels of each stage; as many stages as entries.
        strides: Stride of the convolutions: one for all, 2 by default, or one for each stage.
        input_shape: (height, width, channels).
        kernel_regularizer: Regularizer of every convolution and of the classifier.
        name: Name of the model. Defaults to `"convnet"`.

    Returns:
        A functional model from images to logits.

    Raises:
        ValueError: If `num_classes`, `widths`, `strides` or `input_shape` is something else.

    Example:
        >>> convnet(num_classes=10, widths=(4, 8)).count_params()
        462
    """
    num_classes = require_integer("num_classes", num_classes)
    widths = require_sizes("widths", widths, "name at least one stage by its channels")
    if isinstance(strides, int):
        strides = [strides] * len(widths)
    strides = require_sizes(
        "strides", strides, f"be a stride for all or for each of {len(widths)} stages", len(widths)
    )
    require_image_shape(input_shape)
    regularizer = keras.regularizers.get(kernel_regularizer)
    inputs = maps = keras.Input(input_shape, name="image")
    for stage, (width, stride) in enumerate(zip(widths, strides, strict=True), start=1):
        maps = layers.Conv2D(
            width,
            3,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=regularizer,
            name=f"stage{stage}_conv",
        )(maps)
        maps = layers.BatchNormalization(momentum=0.9, name=f"stage{stage}_norm")(maps)
        maps = layers.ReLU(name=f"stage{stage}")(maps)
    embedding = layers.GlobalAveragePooling2D(name="embedding")(maps)
    logits = layers.Dense(num_classes, kernel_regularizer=regularizer, name="logits")(embedding)
    return keras.Model(inputs, logits, name=name or "convnet")
