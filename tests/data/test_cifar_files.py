"""The files of CIFAR-100: read in the order of the samples' indices, and downloaded or not."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras.data import cifar

SHARED = Path(
    os.environ.get("MODREDUCE_KERAS_SHARED", Path(__file__).parents[3].joinpath("shared"))
)


class Builder:
    """Stands for that of tensorflow-datasets; its files are not in order."""

    def __init__(self, prepared):
        self.prepared, self.downloads = prepared, 0

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self):
        self.downloads += 1

    def as_dataset(self, split, shuffle_files, batch_size):
        assert not shuffle_files
        places = np.random.default_rng(0).permutation(2500)
        examples = {
            "id": [f"{split}_{place:05d}" for place in places],
            "image": np.broadcast_to((places % 251)[:, None, None, None], (2500, 1, 1, 3)),
            "label": places % 100,
        }
        return tf.data.Dataset.from_tensor_slices(examples).batch(batch_size)


@pytest.fixture
def builder(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    made = Builder(prepared=False)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: made)
    cifar._load.cache_clear()
    yield made
    cifar._load.cache_clear()


def test_samples_come_in_the_order_of_their_indices_and_are_read_once(builder):
    images, labels = cifar._load("train", None, True)
    np.testing.assert_array_equal(labels, np.arange(2500) % 100)
    np.testing.assert_array_equal(images[:, 0, 0, 1], np.arange(2500) % 251)
    assert labels.dtype == "int64"
    assert cifar._load("train", None, True)[0] is images
    assert builder.downloads == 1


def test_nothing_is_downloaded_unasked(builder):
    with pytest.raises(ValueError, match="not prepared in data_dir='/data' and download=False"):
        cifar._load("train", "/data", False)
    builder.prepared = True
    assert len(cifar._load("train", "/data", False)[1]) == 2500
    assert builder.downloads == 0


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.joinpath("tfds").is_dir(), reason="needs the shared data")
def test_mean_and_deviation_are_those_of_the_images():
    images, labels = cifar._load("test", str(SHARED / "tfds"), False)
    cifar._load.cache_clear()
    assert images.shape == (10_000, 32, 32, 3)
    assert set(np.bincount(labels)) == {100}
    mean = images.mean(axis=(0, 1, 2), dtype="float64")
    square = np.mean(np.square(images, dtype="float32"), axis=(0, 1, 2), dtype="float64")
    np.testing.assert_allclose(mean / 255, cifar.CIFAR100_MEAN, atol=3e-3)
    std = np.sqrt(square - mean**2) / 255
    np.testing.assert_allclose(std, cifar.CIFAR100_STD, atol=3e-3)
