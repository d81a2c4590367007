"""Images that students of `benchmarks.accuracy.smaller` learn from, with a teacher's outputs."""

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr

Split = tuple[np.ndarray, np.ndarray]  # images, classes

HELD_OUT = 50_000
"""CIFAR-100's training images, of which all but the students' are held out."""
PART = 100
"""Images that a network is given at once; a teacher run eagerly keeps all of its maps."""


class Images(Protocol):
    """Training images in the order of a seed.

    Attributes:
        size: Number of them.
        batch: How many are in a batch.
        outputs: The teacher's outputs, computed once: what a distiller is given as its teacher.
    """

    size: int
    batch: int
    outputs: Any

    def batches(self, *, taught: bool) -> tf.data.Dataset:
        """Returns the batches of a training, with the teacher's outputs or without."""
        ...

    def some(self, count: int) -> np.ndarray:
        """Returns images as they are, to measure ranges on."""
        ...


class ArrayImages:
    """Images in memory, each the same in every epoch.

    Args:
        split: Images and classes.
        teacher: The teacher.
        seed: Of the order.
        batch: Images in a batch.
    """

    def __init__(self, split: Split, teacher: keras.Model, seed: int, batch: int = 32):
        self.split, self.teacher, self.seed, self.batch = split, teacher, seed, batch
        self.size = len(split[1])

    @cached_property
    def outputs(self) -> mr.data.TeacherOutputs:
        """The teacher's outputs for all images."""
        return mr.data.TeacherOutputs(logits=answers(self.teacher, self.split[0]))

    def batches(self, *, taught: bool) -> tf.data.Dataset:
        """Returns the batches of a training, with the teacher's outputs or without."""
        images, classes = self.split
        x = self.outputs.attach(images) if taught else images
        data = tf.data.Dataset.from_tensor_slices((x, classes))
        return data.shuffle(self.size, seed=self.seed).batch(self.batch)

    def some(self, count: int) -> np.ndarray:
        """Returns the first images."""
        return self.split[0][:count]


class CIFAR100Images:
    """Images of CIFAR-100, normalized, in a few crops and flips that a teacher has seen once.

    Args:
        size: Number of images, as many of each class.
        teacher: A teacher of normalized images.
        seed: Of the order, crops and flips.
        folder: Folder of the teacher's outputs, one for each seed.
        batch: Images in a batch.
        augmentations: Crops and flips of each image in all.
        data_dir: Folder of the prepared data sets; `None` for that of tensorflow-datasets.
    """

    def __init__(
        self,
        size: int,
        teacher: keras.Model,
        seed: int,
        folder: Path,
        batch: int = 64,
        augmentations: int = 4,
        data_dir: str | None = None,
    ):
        self.size, self.teacher, self.seed, self.batch = size, teacher, seed, batch
        self.folder, self.augmentations, self.data_dir = folder, augmentations, data_dir

    def read(self, split: str, **given: Any) -> tf.data.Dataset:
        """Returns batches of a split; the training set's other images are the validation set's."""
        return mr.data.cifar100(
            split,
            validation=HELD_OUT - self.size,
            data_dir=self.data_dir,
            download=self.data_dir is None,
            **given,
        )

    def first(self, split: str, count: int) -> Split:
        """Returns the first images of a split, and their classes."""
        data = self.read(split, batch_size=PART, augment=False, shuffle=False)
        images, classes = zip(*data.take(-(-count // PART)).as_numpy_iterator(), strict=True)
        return np.concatenate(images)[:count], np.concatenate(classes)[:count]

    @cached_property
    def outputs(self) -> mr.data.TeacherCache:
        """The teacher's logits for all crops and flips."""
        cache = mr.data.TeacherCache(self.folder, self.teacher, views=self.augmentations)
        cache.fill(self._training(index=True))
        return cache

    def _training(self, *, index: bool) -> tf.data.Dataset:
        given = {"batch_size": self.batch, "augmentations": self.augmentations}
        return self.read("train", seed=self.seed, index=index, **given)

    def batches(self, *, taught: bool) -> tf.data.Dataset:
        """Returns the batches of a training, with the teacher's outputs or without."""
        data = self._training(index=taught)
        return self.outputs.attach(data) if taught else data

    def some(self, count: int) -> np.ndarray:
        """Returns the first training images, not augmented."""
        images, _ = self.first("train", count)
        return images


def answers(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the logits of images; without `predict`, which would trace each of many models."""
    parts = (images[first : first + PART] for first in range(0, len(images), PART))
    return np.concatenate([np.asarray(model(part, training=False)) for part in parts])


def accuracy(model: keras.Model, split: Split) -> float:
    """Returns the share of images whose class a model finds."""
    images, classes = split
    return round(float((answers(model, images).argmax(1) == classes).mean()), 4)
