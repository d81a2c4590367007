"""Pairs of networks for the losses that images with one class each do not have.

They learn from the same images: attention among their rows, a class for each pixel, and numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

import modreduce_keras as mr

SIZE, CLASSES, BACKGROUND = 28, 10, 10
BRIGHTNESS, DEVIATION = 0.28, 0.14  # of a quarter of an image
MOMENTUM = 0.9  # With Keras' 0.99, moving statistics lag behind weights that move this fast.
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
    x = layers.Dense(width, name="embedding")(layers.Reshape((SIZE, SIZE))(image))
    x += layers.Embedding(SIZE, width, name="rows")(ops.arange(SIZE))
    for i in range(depth):
        y = layers.LayerNormalization()(x)
        x += layers.MultiHeadAttention(4, width // 4, name=f"encoder_{i}")(y, y)
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x += layers.Dense(width)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(CLASSES)(x))


def segmenter(is_teacher: bool) -> keras.Model:
    """Returns a network that classifies each pixel."""
    width = 32 if is_teacher else 8
    x = image = keras.Input((SIZE, SIZE, 1))
    for i, strides in enumerate((1, 2, 1)):
        x = layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU(name=f"stage{i}")(layers.BatchNormalization(momentum=MOMENTUM)(x))
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
        for strides in (2, 1):
            x = layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(x))
        x = layers.Flatten()(layers.AveragePooling2D(SIZE // 4)(x))  # one vector for each quarter
        return keras.Model(image, layers.Dense(outputs)(x))

    return build


def brightness(images: Any, classes: Any) -> Any:
    """Returns the mean brightness of the quarters of images, standardized, (batch, 4)."""
    half = SIZE // 2
    quarters = ops.reshape(ops.cast(images, "float32"), (-1, 2, half, 2, half))
    return (ops.reshape(ops.mean(quarters, axis=(2, 4)), (-1, 4)) - BRIGHTNESS) / DEVIATION


def noisy_brightness(images: Any, classes: Any) -> Any:
    """Returns the same with noise, of which some classes have more, so that it has a variance."""
    exact = ops.convert_to_numpy(brightness(images, classes))
    noise = np.random.default_rng(0).normal(size=exact.shape).astype("float32")
    deviations = np.where(ops.convert_to_numpy(classes) < CLASSES // 2, 0.4, 0.8)
    return exact + deviations[:, None].astype("float32") * noise


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
        noisy_brightness,
        gaussian,
        {"gaussian_kd": lambda **more: mr.Response("gaussian_kd", **more)},
    ),
)


def pair_for(identifier: str) -> Pair | None:
    """Returns the pair that a loss needs; `None` of those of image classifiers."""
    return next((pair for pair in PAIRS if identifier in pair.knowledge), None)
