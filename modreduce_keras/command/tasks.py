"""Tasks: opens data, and finds out what a model is to answer and which pixels it takes."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from modreduce_keras.command import networks
from modreduce_keras.command.commands import AUTO, SAMPLE
from modreduce_keras.command.mistakes import MistakeError, did_you_mean
from modreduce_keras.data.image_folders import image_folder
from modreduce_keras.data.prepared import fashion_sample, tensorflow_dataset
from modreduce_keras.data.sources import (
    PIXELS,
    TEST,
    TRAIN,
    VALIDATION,
    Reader,
    Source,
    batches,
    training_batches,
)
from modreduce_keras.data.tables import table
from modreduce_keras.output_kind import CLASSES, LOGIT, REGRESSION

PREFIX = "tfds:"
_LOOKED_AT, _BATCH = 512, 64
_RANGES = 512
"""Samples that int8 files are calibrated with."""


class Task(NamedTuple):
    """What a model is to answer.

    Attributes:
        source: The data.
        reader: Makes a model's inputs from them.
        kind: `"classes"`, `"logit"` or `"regression"`.
        batch_size: Samples in a batch.
    """

    source: Source
    reader: Reader
    kind: str
    batch_size: int

    def train(self, *, seed: int, augment: bool) -> Any:
        """Returns the training data of `fit`."""
        part = self.source.parts[TRAIN]
        return training_batches(part, self.reader, self.batch_size, seed=seed, augment=augment)

    def validation(self) -> Any:
        """Returns the validation data."""
        return batches(self.source.parts[VALIDATION], self.reader, self.batch_size)

    @property
    def judged_on(self) -> str:
        """Name of the part that results are measured on: the test part, or else validation."""
        return TEST if TEST in self.source.parts else VALIDATION

    def judged(self) -> Any:
        """Returns the data that results are measured on."""
        return batches(self.source.parts[self.judged_on], self.reader, self.batch_size)

    def representative(self) -> np.ndarray:
        """Returns inputs that int8 files are calibrated with."""
        data = self.train(seed=0, augment=False).unbatch().take(_RANGES)
        return np.stack([x for x, _ in data.as_numpy_iterator()])

    def class_names(self, units: int) -> list[str] | None:
        """Returns names for the outputs of a model, `None` where there are none."""
        names = self.source.class_names
        return names if names is not None and len(names) == max(2, units) else None


def open_source(given: dict[str, Any]) -> Source:
    """Opens the data that the flags name.

    Raises:
        MistakeError: If there is nothing under that name.
    """
    data, share = given["data"], given["validation_split"]
    if data.startswith(PREFIX):
        name = data.removeprefix(PREFIX)
        return tensorflow_dataset(name, data_dir=given["data_dir"], validation_split=share)
    if data == SAMPLE:
        return fashion_sample(validation_split=share)
    path = Path(data)
    if path.is_dir():
        return image_folder(path, validation_split=share)
    if path.is_file() and path.suffix.lower() == ".csv":
        return table(path, label=given["label"], validation_split=share)
    there = [one.name for one in path.parent.glob("*")] if path.parent.is_dir() else []
    raise MistakeError(
        f"--data must be a folder of images, a table that ends in .csv, {PREFIX}NAME or {SAMPLE}. "
        f"Received: {data!r}.{did_you_mean(path.name, [*there, SAMPLE])}"
    )


def task(given: dict[str, Any], source: Source, model: keras.Model, shape: Any, role: str) -> Task:
    """Returns the task of a trained model.

    Args:
        given: The flags.
        source: The data.
        model: The trained model.
        shape: Shape of an input.
        role: What the messages call the model.

    Raises:
        MistakeError: If the model does not fit the data.
    """
    kind = _kind(source, networks.units(model), role)
    rank = 3 if source.image is not None else 1
    if len(shape) != rank:
        wanted = "images (height, width, channels)" if rank == 3 else "rows (columns,)"
        raise MistakeError(f"--{role} must take {wanted}, as the data are. It takes {shape}.")
    if rank == 1 and shape != tuple(source.parts[TRAIN].samples.element_spec[0].shape):
        columns = source.parts[TRAIN].samples.element_spec[0].shape[0]
        raise MistakeError(f"--{role} takes rows of {shape[0]} numbers, and --data has {columns}.")
    pixels = given["pixels"]
    if rank == 1:
        pixels = "0..255"  # rows stay as they are
    elif pixels == AUTO:
        pixels = _pixels(source, model, shape, kind, role)
    return Task(source, Reader(source.image, shape, pixels), kind, given["batch_size"])


def shape_of_inputs(model: keras.Model, size: int | None, role: str) -> tuple[int, ...]:
    """Returns the shape of a model's inputs; the flag says the size of images where they may vary.

    Raises:
        MistakeError: If nothing says the size, or model and flag say different ones.
    """
    shape = networks.input_shape(model)
    if len(shape) != 3:
        return tuple(int(one or 0) for one in shape)
    channels = int(shape[-1] or 3)
    if None not in shape[:2]:
        if size is not None and shape[:2] != (size, size):
            raise MistakeError(
                f"--image_size must be missing, or the size that the {role} takes, {shape[:2]}. "
                f"Received: {size}."
            )
        return (*shape[:2], channels)  # type: ignore[return-value]
    if size is None:
        raise MistakeError(
            f"--image_size=N must be given, since the {role} takes images of any size; 224 is "
            "usual."
        )
    return size, size, channels


def _kind(source: Source, units: int, role: str) -> str:
    if source.classes is None:
        if units != 1:
            raise MistakeError(
                "labels that are numbers need a model with one output: fractions, negative "
                "numbers, or whole numbers that are different in each row, of which --label= may "
                f"name another column. Received: --{role} with {units}."
            )
        return REGRESSION
    if units == 1:
        return LOGIT if source.classes <= 2 else REGRESSION
    if source.classes > units or (source.class_names and source.classes < units):
        raise MistakeError(
            f"--{role} answers with {units} classes, and --data has {source.classes}: it must have "
            "been trained on these classes."
        )
    return CLASSES


def _pixels(source: Source, model: keras.Model, shape: Any, kind: str, role: str) -> str:
    """Returns the range of pixels in which a model is right most often, and says it."""
    reader = Reader(source.image, shape, "0..255")
    data = training_batches(source.parts[TRAIN], reader, _BATCH, seed=0, augment=False)
    right: dict[str, list[np.ndarray]] = {name: [] for name in PIXELS}
    for x, y in data.take(-(-_LOOKED_AT // _BATCH)).as_numpy_iterator():
        for name, (factor, offset) in PIXELS.items():
            outputs = keras.ops.convert_to_numpy(model(x * factor + offset, training=False))
            right[name].append(_right(outputs, y, kind))
    means = {name: float(np.concatenate(values).mean()) for name, values in right.items()}
    best = max(means, key=lambda name: means[name])
    if kind == REGRESSION:
        print(f"Pixels {best}: the range in which the {role}'s numbers fit the labels best.")
        return best
    others = ", ".join(f"{name}: {100 * means[name]:.0f} %" for name in means if name != best)
    print(
        f"Pixels {best}: the {role} is right on {100 * means[best]:.0f} % of a sample of training "
        f"images ({others})."
    )
    if means[best] < 1.5 / max(2, source.classes or 2):
        print(
            f"Warning: that is hardly better than guessing. Are the {role}'s classes in the order "
            f"of the data's, {source.class_names}?"
        )
    return best


def _right(outputs: np.ndarray, labels: np.ndarray, kind: str) -> np.ndarray:
    """Returns for each sample how right an answer is: 0 or 1, of numbers minus the error."""
    if kind == CLASSES:
        return outputs.argmax(axis=-1) == labels
    if kind == LOGIT:
        return (outputs[:, 0] > 0) == (labels > 0)
    return -np.abs(outputs[:, 0] - labels)
