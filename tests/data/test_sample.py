"""The embedded sample against digests computed from the idx files without our code."""

import gzip
import hashlib
from importlib.resources import files

import numpy as np
import pytest

from modreduce_keras.data import SAMPLE_CLASSES, build_sample, load_sample, sample

# sha256 of all pixels, then all labels, one byte each. Computed from Debian's idx files in plain
# Python: a counter per class picks the images, default_rng(0).permutation(length) orders them.
SPLITS = {
    "train": (1000, "e4a5dfdc7ba45c0c2f02054c6a8854ee75e5c0434bc84aae37becd3598073258"),
    "test": (200, "09ed20b9c6f633da3438f7e03e4ce37b6ba5af3b126be79bb84971a860edc24c"),
}


@pytest.fixture(scope="module")
def splits():
    return dict(zip(SPLITS, load_sample(), strict=True))


@pytest.fixture(scope="module")
def stored():
    return files("modreduce_keras.data").joinpath(sample.FILE_NAME).read_bytes()


def to_bytes(images):
    return np.rint(images * 255.0).astype("uint8")


@pytest.mark.parametrize("split", SPLITS)
def test_shapes_dtypes_and_balance(splits, split):
    images, labels = splits[split]
    per_class, _ = SPLITS[split]
    assert images.shape == (10 * per_class, 28, 28, 1)
    assert images.dtype == "float32"
    assert labels.shape == (10 * per_class,)
    assert labels.dtype == "int64"
    assert np.bincount(labels).tolist() == [per_class] * len(SAMPLE_CLASSES)


@pytest.mark.parametrize("split", SPLITS)
def test_every_pixel_is_a_grey_level_over_255(splits, split):
    images, _ = splits[split]
    levels = np.array([level / 255 for level in range(256)], "float32")
    assert np.array_equal(images, levels[to_bytes(images)])
    assert (images.min(), images.max()) == (0, 1)


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_and_labels_are_those_of_the_idx_files(splits, split):
    images, labels = splits[split]
    raw = to_bytes(images).tobytes() + bytes(labels.tolist())
    assert hashlib.sha256(raw).hexdigest() == SPLITS[split][1]


def test_no_image_occurs_twice(splits):
    images = [image.tobytes() for images, _ in splits.values() for image in images]
    assert len(set(images)) == len(images) == 12_000


def test_the_arrays_may_be_written_to(splits):
    assert all(array.flags.writeable for split in splits.values() for array in split)


def test_the_file_stays_below_five_megabytes(stored):
    assert len(stored) < 5_000_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw[:1_000_000] + bytes([raw[1_000_000] ^ 1]) + raw[1_000_001:],
        lambda raw: raw.replace(b"\r\n", b"\n"),
    ],
    ids=["empty", "truncated", "one bit", "line endings"],
)
def test_a_damaged_file_is_refused(stored, damage, tmp_path, monkeypatch):
    damaged = damage(stored)
    (tmp_path / sample.FILE_NAME).write_bytes(damaged)
    monkeypatch.setattr(sample, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=rf"damaged.*Received: {len(damaged)} bytes"):
        load_sample()


def test_the_cut_keeps_the_first_images_of_each_class(tmp_path):
    labels = np.tile(np.arange(10, dtype="uint8"), 3)
    images = np.arange(30 * 4, dtype="uint8").reshape(30, 2, 2)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        idx = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(idx))
    rng = np.random.default_rng(0)
    kept, kept_labels = build_sample.cut(tmp_path, "train", per_class=2, rng=rng)
    order = np.random.default_rng(0).permutation(20)
    assert np.array_equal(kept, images[:20][order])
    assert np.array_equal(kept_labels, labels[:20][order])


def test_a_file_that_is_not_idx_is_refused(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01"))
    with pytest.raises(ValueError, match=r"unsigned bytes\. Received: .*labels\.gz"):
        build_sample.read_idx(path)
