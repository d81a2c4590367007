"""Prepared data: datasets of tensorflow-datasets, and the embedded sample, as sources."""

import difflib
from typing import Any

import numpy as np
import tensorflow as tf

from modreduce_keras.data.image_folders import decoded
from modreduce_keras.data.sample import SAMPLE_CLASSES, load_sample
from modreduce_keras.data.sources import TEST, TRAIN, VALIDATION, Part, Source, part_of, split


def fashion_sample(*, validation_split: float = 0.1) -> Source:
    """Returns the embedded sample, see `load_sample`; its test images are the test part."""
    (x, y), (x_test, y_test) = load_sample()
    parts = split(_bytes(x), y, validation_split)
    parts[TEST] = part_of(_bytes(x_test), y_test)
    return Source(parts, _repeated, len(SAMPLE_CLASSES), list(SAMPLE_CLASSES), True)


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(255 * x).astype("uint8")


def _repeated(image: Any, channels: int) -> Any:
    return tf.repeat(image, channels, axis=-1) if channels > 1 else image


def tensorflow_dataset(
    name: str, *, data_dir: str | None = None, validation_split: float = 0.1
) -> Source:
    """Returns a dataset of labelled images from tensorflow-datasets, which is downloaded once.

    Args:
        name: Its name, such as `"beans"` or `"cifar10"`.
        data_dir: Folder of the prepared datasets. Defaults to that of tensorflow-datasets.
        validation_split: Share of the training images, the last ones, that is held out, where
            there is no validation part. Defaults to 0.1.

    Raises:
        ValueError: If there is no such dataset, or it has no images with labels.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        close = difflib.get_close_matches(name, tfds.list_builders(), n=1)
        suggestion = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"tensorflow-datasets must have the dataset. Received: {name!r}.{suggestion}"
        ) from error
    if not builder.is_prepared():
        builder.download_and_prepare()
    image, label = _supervised(name, builder)

    def part(description: str) -> Part:
        data = builder.as_dataset(
            split=description,
            shuffle_files=False,
            decoders={image: tfds.decode.SkipDecoding()},
        ).map(lambda sample: (sample[image], sample[label]))
        size = builder.info.splits[description].num_examples
        return Part(data.apply(tf.data.experimental.assert_cardinality(size)), size)

    theirs = {one: one for one in (VALIDATION, TEST) if one in builder.info.splits}
    held_out = VALIDATION not in theirs
    descriptions = {TRAIN: TRAIN, **theirs}
    if held_out:
        kept = round(100 * (1 - validation_split))
        descriptions |= {TRAIN: f"{TRAIN}[:{kept}%]", VALIDATION: f"{TRAIN}[{kept}%:]"}
    parts = {one: part(description) for one, description in descriptions.items()}
    classes = builder.info.features[label]
    return Source(parts, decoded, classes.num_classes, list(classes.names), held_out)


def _supervised(name: str, builder: Any) -> tuple[str, str]:
    """Returns the keys of the images and of their labels in a dataset."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features or {})
    images, labels = (
        [key for key, feature in features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    supervised = builder.info.supervised_keys
    if supervised is not None and supervised[0] in images and supervised[-1] in labels:
        images, labels = [supervised[0]], [supervised[-1]]
    if len(images) != 1 or len(labels) != 1 or TRAIN not in builder.info.splits:
        raise ValueError(
            "The dataset must have images with one class each, and a part 'train'. Received: "
            f"{name!r} with {list(features)} and the parts {list(builder.info.splits)}"
        )
    return images[0], labels[0]
