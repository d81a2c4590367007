"""Pairs of networks for the losses that images with one class each do not have.

They learn from the same images: attention among their rows, a class for each pixel, and numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import layers, ops

import modreduce_keras as mr

SIZE, CLASSES, BACKGROUND = 28, 10, 10
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Pair(NamedTuple):
    """What a loss is measured with.

    Attributes:
        name: In the rows.
        network: Builds a network, of a teacher (`True`) or a student.
        targets: Returns the labels of images, (batch, 28, 28, 1), and their classes, (batch,).
        supervision: The loss on these labels, as `compile` takes it.
        knowledge: Builds the knowledge of each loss, by its identifier.
    """

    name: str
    network: Callable[[bool], keras.Model]
    targets: Callable[[Any, Any], Any]
    supervision: Any
    knowledge: dict[str, Callable[..., mr.Knowledge]]


def transformer(is_teacher: bool) -> keras.Model:
    """Returns a network on the rows of an image, with as many heads for teacher and student."""
    width, depth = (64, 4) if is_teacher else (24, 2)
    image = keras.Input((SIZE, SIZE, 1))
    x = layers.Dense(width, name="embedding")(layers.Reshape((SIZE, SIZE))(image / 255.0))
    x += layers.Embedding(SIZE, width, name="rows")(ops.arange(SIZE))
    for i in range(depth):
        attention = layers.MultiHeadAttention(4, width // 4, name=f"encoder_{i}")
        x = layers.LayerNormalization()(x + attention(x, x))
        y = layers.Dense(width)(layers.Dense(2 * width, activation="gelu")(x))
        x = layers.LayerNormalization()(x + y)
    return keras.Model(image, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))


def segmenter(is_teacher: bool) -> keras.Model:
    """Returns a network that classifies each pixel."""
    width = 32 if is_teacher else 8
    x = image = keras.Input((SIZE, SIZE, 1))
    for i, strides in enumerate((1, 2, 1)):
        x = layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU(name=f"stage{i}")(layers.BatchNormalization()(x))
    logits = layers.Conv2D(CLASSES + 1, 1)(layers.UpSampling2D(interpolation="bilinear")(x))
    return keras.Model(image, logits)


def of_pixels(images: Any, classes: Any) -> Any:
    """Returns the class where there is clothing, and one of the background elsewhere."""
    own = ops.cast(classes, "int32")[:, None, None]
    return ops.where(images[..., 0] > 0, own, BACKGROUND)


def regressor(outputs: int) -> Callable[[bool], keras.Model]:
    """Returns the function that builds a network of so many numbers."""

    def build(is_teacher: bool) -> keras.Model:
        width = 32 if is_teacher else 8
        x = image = keras.Input((SIZE, SIZE, 1))
        for _ in range(2):
            x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return keras.Model(image, layers.Dense(outputs)(layers.Flatten()(x)))

    return build


def brightness(images: Any, classes: Any) -> Any:
    """Returns the mean brightness of the quarters of images, between 0 and 1."""
    half = SIZE // 2
    quarters = ops.reshape(ops.cast(images, "float32"), (-1, 2, half, 2, half))
    return ops.reshape(ops.mean(quarters, axis=(2, 4)), (-1, 4)) / 255.0


def gaussian(labels: Any, outputs: Any) -> Any:
    """Returns the negative log likelihood of outputs that are means and log variances."""
    mean, log_variance = ops.split(outputs, 2, axis=-1)
    squares = ops.square(labels - mean) * ops.exp(-log_variance)
    return 0.5 * ops.mean(log_variance + squares, axis=-1)


def _last(loss: str, what: str) -> Callable[..., mr.Knowledge]:
    """Returns the function that compares the last attention layers."""
    student, teacher = f"encoder_1/{what}", f"encoder_3/{what}"
    return lambda **more: mr.Feature(loss, student=student, teacher=teacher, **more)


PAIRS = (
    Pair(
        "transformer",
        transformer,
        lambda images, classes: classes,
        CROSS_ENTROPY,
        {
            "minilm_attention": _last("minilm_attention", "attention_logits"),
            "minilm_relation": _last("minilm_relation", "value"),
            "tinybert_attention": _last("tinybert_attention", "attention_logits"),
        },
    ),
    Pair(
        "segmenter",
        segmenter,
        of_pixels,
        CROSS_ENTROPY,
        {"ifvd": lambda **more: mr.Feature("ifvd", at="stage2", **more)},
    ),
    Pair(
        "regressor",
        regressor(4),
        brightness,
        "mse",
        {"teacher_bounded": lambda **more: mr.Response("teacher_bounded", **more)},
    ),
    Pair(
        "regressor of mean and variance",
        regressor(8),
        brightness,
        gaussian,
        {"gaussian_kd": lambda **more: mr.Response("gaussian_kd", **more)},
    ),
)


def pair_for(identifier: str) -> Pair | None:
    """Returns the pair that a loss needs; `None` of those of image classifiers."""
    return next((pair for pair in PAIRS if identifier in pair.knowledge), None)
