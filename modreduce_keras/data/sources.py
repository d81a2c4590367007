"""Sources: samples of a task as they lie on the disk, and the batches that models take.

A sample is read as late as possible: what is shuffled are paths and encoded images, not pixels.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from modreduce_keras.arguments import require_number
from modreduce_keras.data.epoch_shuffle import epoch_shuffle
from modreduce_keras.typing import Tensor

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PIXELS = {"0..1": (1 / 255, 0.0), "-1..1": (1 / 127.5, -1.0), "0..255": (1.0, 0.0)}
"""Factor and offset from bytes to each range of pixels, by its name."""
_SPLIT_SEED = 0
_CROP = 0.875
_MOST_BUFFERED = 100_000


class Part(NamedTuple):
    """One part of the data.

    Attributes:
        samples: Single samples (stored, label), in a fixed order.
        size: How many there are.
    """

    samples: tf.data.Dataset
    size: int


class Source(NamedTuple):
    """The data of a task.

    Attributes:
        parts: `"train"`, and `"validation"` and `"test"` where there are such.
        image: Decodes a stored sample: (stored, channels) -> (height, width, channels), from 0 to
            255. `None` for tables, whose samples are stored as they are used.
        classes: How many classes the labels are of; `None` of a regression.
        class_names: Their names; `None` where labels are numbers.
        held_out: Whether the validation part was taken from the training data.
    """

    parts: dict[str, Part]
    image: Callable[[Any, int], Any] | None
    classes: int | None
    class_names: list[str] | None
    held_out: bool


class Reader(NamedTuple):
    """Makes a model's input from a stored sample.

    Attributes:
        image: As of the source.
        shape: (height, width, channels) of the input; of a table unused.
        pixels: Range of the pixels, a key of `PIXELS`.
    """

    image: Callable[[Any, int], Any] | None
    shape: tuple[int, ...]
    pixels: str

    def __call__(self, stored: Any) -> Any:
        """Returns the input of a stored sample."""
        return stored if self.image is None else self._scaled(self._resized(stored))

    def augmented(self, seed: Tensor, stored: Any) -> Any:
        """Returns the input, flipped and cropped by a seed; rows of a table stay as they are."""
        if self.image is None:
            return stored
        height, width, channels = self.shape
        larger = (math.ceil(height / _CROP), math.ceil(width / _CROP))
        image = self._resized(stored, larger)
        image = tf.image.stateless_random_crop(image, (height, width, channels), seed)
        return self._scaled(tf.image.stateless_random_flip_left_right(image, seed + 1))

    def _resized(self, stored: Any, size: tuple[int, int] | None = None) -> Any:
        image = self.image(stored, self.shape[-1]) if self.image else stored
        height, width = size or self.shape[:2]
        if tuple(image.shape[:2]) != (height, width):
            image = tf.image.resize(image, (height, width), antialias=True)
        return tf.ensure_shape(image, (height, width, self.shape[-1]))

    def _scaled(self, image: Any) -> Any:
        factor, offset = PIXELS[self.pixels]
        return tf.cast(image, "float32") * factor + offset


def batches(part: Part, reader: Reader, batch_size: int) -> tf.data.Dataset:
    """Returns the samples of a part in their order, as batches `(x, y)`."""
    data = part.samples.map(lambda stored, y: (reader(stored), y), tf.data.AUTOTUNE)
    return data.batch(batch_size).prefetch(2)


def training_batches(
    part: Part, reader: Reader, batch_size: int, *, seed: int, augment: bool
) -> tf.data.Dataset:
    """Returns the samples of a part in an order of each epoch, as batches `(x, y)`."""
    buffer_size = min(part.size, _MOST_BUFFERED)
    if augment:

        def changed(sample_seed: Any, stored: Any, y: Any) -> Any:
            return reader.augmented(sample_seed, stored), y

        data = epoch_shuffle(part.samples, seed=seed, buffer_size=buffer_size, augment=changed)
    else:
        data = epoch_shuffle(part.samples, seed=seed, buffer_size=buffer_size)
        data = data.map(lambda stored, y: (reader(stored), y), tf.data.AUTOTUNE)
    return data.batch(batch_size).prefetch(2)


def part_of(stored: Any, labels: np.ndarray) -> Part:
    """Returns a part from arrays."""
    return Part(tf.data.Dataset.from_tensor_slices((stored, labels)), len(labels))


def split(stored: Any, labels: np.ndarray, share: float) -> dict[str, Part]:
    """Returns arrays as a training and a validation part.

    The same samples are held out each time, of each class the same share. Classes with so few
    samples that none or all would be held out are taken together.

    Args:
        stored: Stored samples, (samples, ...).
        labels: (samples,); of integers the classes.
        share: Above 0, below 1.

    Raises:
        ValueError: If one of the parts would be empty.
    """
    require_number("validation_split", share, above=0)
    out = np.zeros(len(labels), bool)
    random = np.random.default_rng(_SPLIT_SEED)
    is_class = np.issubdtype(labels.dtype, np.integer)
    classes = labels if is_class else np.zeros(len(labels), "int64")
    groups = [classes == one for one in np.unique(classes)]
    several = [group for group in groups if 0 < round(share * group.sum()) < group.sum()]
    few = ~np.any([np.zeros(len(labels), bool), *several], axis=0)
    for group in [*several, few]:
        same = random.permutation(np.flatnonzero(group))
        out[same[: round(share * len(same))]] = True
    if out.all() or not out.any():
        raise ValueError(
            "validation_split must leave samples for training and for validation. Received: "
            f"validation_split={share:g} of {len(labels)} samples"
        )
    return {
        TRAIN: part_of(stored[~out], labels[~out]),
        VALIDATION: part_of(stored[out], labels[out]),
    }
