"""deep_inversion: images that a teacher assigns to its classes, found by optimizing pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras import whole_files
from modreduce_keras.arguments import require_bool, require_integer, require_number
from modreduce_keras.data.inversion_losses import (
    l2_norm,
    moments,
    statistics_loss,
    total_variation,
)
from modreduce_keras.keras_internals import flatten_layers
from modreduce_keras.models import head_kinds
from modreduce_keras.models.graph import input_specs
from modreduce_keras.models.preprocessing import preprocessing
from modreduce_keras.models.shapes import require_floats, require_image_range, require_image_shape
from modreduce_keras.recording import recording
from modreduce_keras.symbolic import output_spec
from modreduce_keras.typing import Tensor


class Weights(NamedTuple):
    """The weights of what images are optimized for, beside the cross-entropy."""

    statistics: float
    total_variation: float
    l2: float


def deep_inversion(
    teacher: keras.Model,
    *,
    samples: int,
    labels: Any = None,
    start: Any = None,
    image_range: Sequence[float] | None = None,
    batch_size: int = 64,
    steps: int = 500,
    learning_rate: float = 0.1,
    statistics: float = 10.0,
    total_variation: float = 2.5e-5,
    l2: float = 3e-8,
    jitter: int = 2,
    flip: bool = False,
    seed: int = 0,
    path: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images that a teacher assigns to its classes, made from noise without any data.

    The pixels x of a batch are optimized, by Adam, for

        CE(z_t(x), y) + statistics · Σ_l (‖mean_l - moving mean_l‖ + ‖variance_l - moving
        variance_l‖) + total_variation · TV(x) + l2 · ‖x‖

    with the teacher's logits z_t, and for each of its batch normalizations the mean and variance of
    its inputs over the batch, and its moving mean and variance. The teacher runs in inference mode
    and is not changed. Use the images like other training data: `distiller.fit(images, labels)`.

    The images may reveal training data of the teacher: see the guide *Without the data*.

    Args:
        teacher: A trained model from images to logits (batch, classes), differentiable, with batch
            normalizations (or `statistics=0`).
        samples: Number of images.
        labels: Class of each image, (samples,). Defaults to `None`: all classes in turn.
        start: Images to start from instead of noise, (samples, height, width, channels), for
            example a few real ones, repeated. Defaults to `None`.
        image_range: The lowest and the highest pixel value. Pixels are kept within this range, and
            the noise is centred in it. Defaults to `None`: what `mr.models.preprocessing` finds for
            the teacher; if it finds nothing, pixels are not limited, and the noise has mean 0 and
            variance 1.
        batch_size: Number of images that are optimized together, and whose statistics are compared;
            the last batch may be smaller. Defaults to 64.
        steps: Steps of Adam for each batch. Defaults to 500.
        learning_rate: Learning rate of Adam for pixels from 0 to 1; it is multiplied by the width
            of `image_range`. Defaults to 0.1.
        statistics: Weight of the batch statistics. Defaults to 10.
        total_variation: Weight of the total variation, `inversion_losses.total_variation`. Defaults
            to 2.5e-5.
        l2: Weight of the norm of the pixels. Defaults to 3e-8.
        jitter: In each step the images are shifted by up to this number of pixels. Defaults to 2.
        flip: Whether the images are mirrored in half of the steps. Defaults to `False`.
        seed: Seed of noise, shifts and flips. Defaults to 0.
        path: A `.npz` file to write, with the arrays `images` and `labels`. Defaults to `None`.

    Returns:
        The images, (samples, height, width, channels), float32, and their labels, (samples,),
        int64.

    Raises:
        TypeError: If the teacher is not a Keras model.
        ValueError: If it has no batch normalization, does not end in logits of classes or takes
            something other than one image of known size, in floats, or an argument is out of range.

    Example:
        >>> import modreduce_keras as mr
        >>> teacher = mr.models.get("convnet", num_classes=3, widths=(4,), input_shape=(8, 8, 1))
        >>> images, labels = mr.data.deep_inversion(teacher, samples=6, steps=2)
        >>> images.shape, labels.tolist()
        ((6, 8, 8, 1), [0, 1, 2, 0, 1, 2])

    Reference:
        Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion, 2020. Their
        Adaptive DeepInversion also looks for images on which a student differs; this one does not.
    """
    shape, classes = _checked(teacher, statistics)
    if path is not None and Path(path).suffix != ".npz":
        raise ValueError(f"path must be a file that ends in .npz. Received: path={str(path)!r}")
    samples = require_integer("samples", samples)
    classes_of = _labels(labels, samples, classes)
    limits = _limits(image_range, teacher)
    begin = _begin(start, samples, shape, limits, seed)
    numbers = {"statistics": statistics, "total_variation": total_variation, "l2": l2}
    weights = Weights(*(require_number(k, v, least=0.0) for k, v in numbers.items()))
    width = 1.0 if limits is None else limits[1] - limits[0]
    rate = require_number("learning_rate", learning_rate, above=0.0) * width
    batch_size = require_integer("batch_size", batch_size)
    steps = require_integer("steps", steps)
    jitter = require_integer("jitter", jitter, least=0)
    require_bool("flip", flip)
    made = []
    for first in range(0, samples, batch_size):
        rows = slice(first, first + batch_size)
        batch = _Inversion(teacher, begin[rows], classes_of[rows], weights, rate, limits)
        made.append(batch.run(steps, jitter, flip, (require_integer("seed", seed, least=0), first)))
    images = np.concatenate(made)
    if path is not None:
        with whole_files.naming(Path(path)), Path(path).open("wb") as file:
            np.savez_compressed(file, images=images, labels=classes_of)
    return images, classes_of


class _Inversion:
    """Optimizes the pixels of one batch.

    Args:
        teacher: The teacher.
        images: What to begin with, (batch, height, width, channels).
        labels: Their classes, (batch,).
        weights: What they are optimized for.
        rate: Learning rate.
        limits: The lowest and the highest value of a pixel, or `None`.
    """

    def __init__(
        self,
        teacher: keras.Model,
        images: np.ndarray,
        labels: np.ndarray,
        weights: Weights,
        rate: float,
        limits: tuple[float, float] | None,
    ):
        self._teacher, self._labels, self._weights = teacher, labels, weights
        self._limits = limits
        self._norms = normalizations(teacher)
        self._images = keras.Variable(images, dtype="float32", name="images")
        self._optimizer = keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.9)
        self._optimizer.build([self._images])

    def run(self, steps: int, jitter: int, flip: bool, seed: tuple[int, int]) -> np.ndarray:
        """Returns the images after some steps."""
        generator = np.random.default_rng(seed)
        step = tf.function(self._step, autograph=False)
        for _ in range(steps):
            shift = generator.integers(-jitter, jitter + 1, size=2).astype("int32")
            step(tf.constant(shift), tf.constant(bool(flip and generator.random() < 0.5)))
        return np.array(keras.ops.convert_to_numpy(self._images))

    def _step(self, shift: Tensor, mirrored: Tensor) -> None:
        with tf.GradientTape() as tape:
            images = tf.roll(self._images.value, shift, axis=(1, 2))
            images = tf.where(mirrored, images[:, :, ::-1], images)
            loss = inversion_loss(self._teacher, images, self._labels, self._weights, self._norms)
        gradient = tape.gradient(loss, self._images.value)
        self._optimizer.apply([gradient], [self._images])
        if self._limits is not None:
            self._images.assign(tf.clip_by_value(self._images.value, *self._limits))


def inversion_loss(
    teacher: keras.Model,
    images: Tensor,
    labels: Any,
    weights: Weights,
    norms: Sequence[keras.layers.BatchNormalization],
) -> Tensor:
    """Returns what the pixels of a batch are optimized for, a scalar, float32."""
    with recording(norms) as recorded:
        logits = tf.cast(teacher(images, training=False), tf.float32)
    calls = [(norm, call) for norm in norms for call in recorded.calls_of(norm)]
    batch = [moments(call.inputs[0], norm.axis) for norm, call in calls]
    moving = [(norm.moving_mean, norm.moving_variance) for norm, _ in calls]
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return (
        tf.reduce_mean(entropy)
        + weights.statistics * statistics_loss(batch, moving)
        + weights.total_variation * total_variation(images)
        + weights.l2 * l2_norm(images)
    )


def normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the batch normalizations of a model."""
    kind = keras.layers.BatchNormalization
    return [layer for layer in flatten_layers(model) if isinstance(layer, kind)]


def _checked(teacher: Any, statistics: float) -> tuple[tuple[int, int, int], int]:
    """Returns the shape of the teacher's images and the number of its classes."""
    if not isinstance(teacher, keras.Model):
        raise TypeError(f"teacher must be a keras.Model. Received: {teacher!r}")
    specs = input_specs(teacher)
    if specs is None or keras.tree.is_nested(specs):
        raise ValueError(
            "deep_inversion makes images for a built teacher with one input (batch, height, width, "
            f"channels). Received: {teacher.name!r} with inputs {specs}"
        )
    shape = tuple(specs.shape[1:])
    require_image_shape(shape, known=True, name="the teacher's input")
    require_floats(teacher, "teacher")
    output = output_spec(teacher, specs)
    single = not keras.tree.is_nested(output) and len(output.shape) == 2 and output.shape[-1] > 1
    if not single or head_kinds.of_model(teacher) not in (None, head_kinds.LOGITS):
        raise ValueError(
            "The teacher must return logits (batch, classes) of at least two classes; "
            "mr.models.as_logits(teacher) takes a softmax off. Received: "
            f"{teacher.name!r} with output {keras.tree.map_structure(str, output)}"
        )
    if statistics and not normalizations(teacher):
        raise ValueError(
            f"The teacher {teacher.name!r} has no BatchNormalization whose statistics the images "
            "could have: statistics=0 makes them without, by its classes alone. "
            f"Received: {statistics=}"
        )
    return shape, output.shape[-1]


def _labels(given: Any, samples: int, classes: int) -> np.ndarray:
    labels = np.arange(samples) % classes if given is None else np.asarray(given)
    fits = labels.shape == (samples,) and labels.dtype.kind in "iu"
    if not fits or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must be {samples} class indices from 0 to {classes - 1}, one for each of "
            f"samples. Received: labels of shape {labels.shape} and dtype {labels.dtype}"
        )
    return labels.astype("int64")


def _limits(given: Sequence[float] | None, teacher: keras.Model) -> tuple[float, float] | None:
    if given is not None:
        return require_image_range(given)
    found = preprocessing(teacher)
    return found and found.range


def _begin(
    start: Any,
    samples: int,
    shape: tuple[int, int, int],
    limits: tuple[float, float] | None,
    seed: int,
) -> np.ndarray:
    """Returns what to begin with: given images, or noise."""
    whole = (samples, *shape)
    if start is not None:
        images = np.asarray(start)
        if images.shape != whole:
            raise ValueError(
                f"start must be {samples} images {shape}, one for each of samples; "
                "np.resize(images, (samples, *images.shape[1:])) repeats a few. "
                f"Received: an array of shape {images.shape}"
            )
        return images.astype("float32")
    noise = np.random.default_rng(require_integer("seed", seed, least=0)).normal(size=whole)
    if limits is None:
        return noise.astype("float32")
    low, high = limits
    return np.clip((low + high) / 2 + (high - low) / 4 * noise, low, high).astype("float32")
