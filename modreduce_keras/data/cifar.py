"""CIFAR-100 as in the papers: cropped, flipped and normalized, with a validation split."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modreduce_keras.arguments import (
    is_number,
    require_bool,
    require_choice,
    require_integer,
)
from modreduce_keras.batches import INDEX, INPUTS
from modreduce_keras.data.epoch_shuffle import per_epoch, shuffled_by
from modreduce_keras.typing import Tensor

CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)
_SPLITS = ("train", "validation", "test")
_SIZE, _MARGIN, _CLASSES = 32, 4, 100
_SHIFTS = 2 * _MARGIN + 1
# What random numbers are for: the order of an epoch, and the crops and flips.
_ORDER, _AUGMENTATION = 0, 1


def cifar100(
    split: str = "train",
    *,
    batch_size: int = 64,
    validation: int = 5000,
    shuffle: bool | None = None,
    augment: bool | None = None,
    views: int = 1,
    augmentations: int | None = None,
    seed: int = 0,
    index: bool = False,
    mean: Sequence[float] = CIFAR100_MEAN,
    std: Sequence[float] = CIFAR100_STD,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
) -> tf.data.Dataset:
    """Returns batches of CIFAR-100, augmented and normalized, from tensorflow-datasets.

    An image is padded with 4 black pixels on each side, cropped at random, and flipped with
    probability 1/2. Its crop and flip are a function of the seed, the epoch and its index, and the
    order is a function of the seed and the epoch, independent of the batch size and of what was
    read before. Epochs are counted as in `mr.data.epoch_shuffle`, so a training that
    `mr.callbacks.Resume` continues sees the same images as without an interruption.

        train = mr.data.cifar100("train", index=True)
        validation = mr.data.cifar100("validation", batch_size=500)

    The validation images are the last images of each class of the training set, 50 by default, and
    are not in `"train"`. Use them to choose models and hyperparameters, and `"test"` only for the
    final result.

    The images are kept in memory as bytes: the training set takes 150 MB once per process, and as
    much again for each dataset.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        batch_size: Number of samples in a batch; the last one of an epoch may have fewer.
        validation: Number of training images that are held out, a multiple of 100 below 50,000.
            0 holds out none, as in most papers. Defaults to 5,000.
        shuffle: Whether to shuffle the data in each epoch. Defaults to `None`: in `"train"` only.
        augment: Whether images are cropped and flipped. Defaults to `None`: in `"train"` only.
        views: Number of augmentations of each image in a batch. Several make `x` a dict of
            `"view_0"`, `"view_1"`, ..., which `student_inputs` and `teacher_input` of distillers
            name. Defaults to 1.
        augmentations: Total number of different augmentations of an image, at least `views`. View
            `v` of epoch `e` has augmentation `(e · views + v) mod augmentations`. Defaults to
            `None`: always new ones.
        seed: Seed of the order and the augmentation, an integer that is not negative.
        index: Whether `x` is `{"inputs": x, "sample_index": index}`, as from `mr.data.with_index`.
            The index is that of the sample in the split, before shuffling.
        mean: Mean of each channel, for values between 0 and 1.
        std: Standard deviation of each channel.
        data_dir: Folder of the prepared datasets. Defaults to that of tensorflow-datasets.
        download: Whether to download the data if they are missing.

    Returns:
        A dataset of `(x, y)`: float32 (batch, 32, 32, 3) and int64 (batch,).

    Raises:
        ValueError: If an argument is out of range, or the data are missing and `download=False`.

    Example:
        >>> import modreduce_keras as mr
        >>> mr.data.cifar100("test", data_dir="/nowhere", download=False)
        Traceback (most recent call last):
        ...
        ValueError: CIFAR-100 is not prepared in data_dir='/nowhere' and download=False

    Reference:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. Crops, flips, mean
        and deviation as Tian et al., Contrastive Representation Distillation, 2020, have them.
    """
    require_choice("split", split, _SPLITS)
    batch_size = require_integer("batch_size", batch_size)
    require_integer("validation", validation, least=0)
    _require_held_out(split, validation)
    shuffle, augment = (
        split == "train" if value is None else require_bool(name, value)
        for name, value in (("shuffle", shuffle), ("augment", augment))
    )
    views = require_integer("views", views)
    augmentations = require_integer("augmentations", augmentations, optional=True)
    _require_augmentations(augment, views, augmentations)
    seed = require_integer("seed", seed, least=0)
    require_bool("index", index)
    scale, offset = _scaling(mean, std)
    images, labels = _split(split, validation, data_dir, download)
    size = len(labels)
    images, labels = tf.constant(images), tf.constant(labels)

    def epoch_of(epoch: Any) -> Any:
        indices = tf.data.Dataset.range(size)
        if shuffle:
            indices = shuffled_by(_key(seed, _ORDER, epoch), indices, tf.constant(size, "int64"))
        draws = [_draws(seed, epoch * views + view, augmentations, size) for view in range(views)]

        def batch(samples: Tensor) -> tuple[Any, Any]:
            chosen = tf.gather(images, samples)
            if augment:
                seen = [_augmented(chosen, tf.gather(draw, samples)) for draw in draws]
            else:
                seen = [chosen]
            seen = [_normalized(pixels, scale, offset) for pixels in seen]
            x = {f"view_{i}": each for i, each in enumerate(seen)} if views > 1 else seen[0]
            return ({INPUTS: x, INDEX: samples} if index else x), tf.gather(labels, samples)

        return indices.batch(batch_size).map(batch, num_parallel_calls=tf.data.AUTOTUNE)

    data = per_epoch(epoch_of, -(-size // batch_size)) if shuffle or augment else epoch_of(0)
    return data.prefetch(2)


def _require_held_out(split: str, validation: int) -> None:
    if validation % _CLASSES or validation >= 50_000 or (split == "validation" and not validation):
        few = "at least 100 for split='validation', and " if split == "validation" else ""
        raise ValueError(
            f"validation must be {few}a multiple of 100 below 50,000. Received: {validation=}"
        )


def _require_augmentations(augment: bool, views: int, augmentations: int | None) -> None:
    if not augment and (views > 1 or augmentations):
        raise ValueError(
            "views and augmentations are for augmented images: give augment=True. Received: "
            f"{views=}, {augmentations=} with {augment=}"
        )
    if augmentations and augmentations < views:
        raise ValueError(
            f"augmentations must be at least views. Received: {augmentations=} with {views=}"
        )


def _scaling(mean: Any, std: Any) -> Any:
    """Returns what bytes are multiplied by, and what is added, for a row of pixels."""
    for name, values in (("mean", mean), ("std", std)):
        several = isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, str)
        if not several or len(values) != 3 or not all(map(is_number, values)):
            raise ValueError(f"{name} must be three numbers. Received: {name}={values!r}")
    if min(std) <= 0:
        raise ValueError(f"std must be positive. Received: {std=}")
    mean, std = (np.asarray(values, "float64") for values in (mean, std))
    rows = (np.tile(values, _SIZE * _SIZE) for values in (1.0 / (255.0 * std), -mean / std))
    return tuple(tf.constant(row, "float32") for row in rows)


def _key(seed: int, purpose: int, number: Any) -> Any:
    """Returns two int64 that are a function of what they are for."""
    values = tf.stack([tf.constant(purpose, "int64"), tf.cast(number, "int64")])
    key = tf.constant([seed % 2**31, seed // 2**31], "int64")
    for part in (values[0], values[1]):
        key = tf.random.experimental.stateless_fold_in(key, part)
    return key


def _draws(seed: Any, number: Any, augmentations: Any, size: Any) -> Any:
    """Returns for each image of the split which of all crops and flips it gets."""
    number = number % augmentations if augmentations else number
    key = _key(seed, _AUGMENTATION, number)
    return tf.random.stateless_uniform((size,), key, 0, 2 * _SHIFTS * _SHIFTS, dtype=tf.int32)


def _augmented(pixels: Tensor, draw: Any) -> Any:
    """Returns images, each cropped and flipped as its draw says."""
    flip, shift = draw % 2, draw // 2
    rows = (shift // _SHIFTS)[:, None] + tf.range(_SIZE)
    columns = (shift % _SHIFTS)[:, None] + tf.range(_SIZE)
    columns = tf.where(flip[:, None] == 1, tf.reverse(columns, [1]), columns)
    margin = [_MARGIN, _MARGIN]
    pixels = tf.pad(pixels, [[0, 0], margin, margin, [0, 0]])
    pixels = tf.gather(pixels, rows, axis=1, batch_dims=1)
    return tf.gather(pixels, columns, axis=2, batch_dims=1)


def _normalized(pixels: Tensor, scale: Any, offset: Any) -> Any:
    # In long rows: TensorFlow broadcasts three channels several times more slowly.
    rows = tf.cast(tf.reshape(pixels, (-1, _SIZE * _SIZE * 3)), "float32")
    return tf.reshape(rows * scale + offset, (-1, _SIZE, _SIZE, 3))


def _split(split: Any, validation: Any, data_dir: Any, download: bool) -> tuple[Any, Any]:
    """Returns the images and labels of a split, in the order of the official files."""
    folder = None if data_dir is None else os.fspath(data_dir)
    images, labels = _load("test" if split == "test" else "train", folder, download)
    if split == "test" or not validation:
        return images, labels
    by_class = np.argsort(labels, kind="stable")
    last = np.concatenate(
        [each[-validation // _CLASSES :] for each in np.split(by_class, _ends(labels[by_class]))]
    )
    chosen = np.zeros(len(labels), bool)
    chosen[last] = True
    chosen = chosen if split == "validation" else ~chosen
    return images[chosen], labels[chosen]


def _ends(ordered: Any) -> Any:
    return np.flatnonzero(np.diff(ordered)) + 1


@functools.lru_cache(maxsize=2)
def _load(part: str, data_dir: str | None, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of an official part, sorted by the index of the sample."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar100", data_dir=data_dir)
    if download:
        builder.download_and_prepare()
    elif not builder.is_prepared():
        raise ValueError(f"CIFAR-100 is not prepared in {data_dir=} and download=False")
    data = builder.as_dataset(split=part, shuffle_files=False, batch_size=1000)
    batches = list(data.as_numpy_iterator())
    names, images, labels = (
        np.concatenate([batch[key] for batch in batches]) for key in ("id", "image", "label")
    )
    order = np.argsort(names)
    return images[order], labels[order].astype("int64")
