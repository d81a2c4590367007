"""Rebuilds the embedded data sample, byte for byte, from the idx files of Fashion-MNIST.

`python -m modreduce_keras.data.build_sample <folder>`, where the folder holds the four `.gz`
files, for instance that of Debian's package `dataset-fashion-mnist`.
"""

import argparse
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np

from modreduce_keras.data.sample import ARRAYS, FILE_NAME, SAMPLE_CLASSES


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of bytes: 0, 0, 8, rank, big-endian sizes, then the values."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"Expected an idx file of unsigned bytes. Received: {path}")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, "uint8", offset=4 + 4 * raw[3]).reshape(shape)


def cut(folder: Path, split: str, per_class: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Take the first `per_class` images of each class in file order, shuffled, and their labels."""
    images, labels = (
        read_idx(folder / f"{split}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
    )
    first = [np.flatnonzero(labels == label)[:per_class] for label in range(len(SAMPLE_CLASSES))]
    chosen = rng.permutation(np.sort(np.concatenate(first)))
    return [images[chosen], labels[chosen]]


def main() -> None:
    """Write the sample to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the idx files")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name(FILE_NAME))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    train, test = (cut(options.folder, *part, rng) for part in (("train", 1000), ("t10k", 200)))
    with zipfile.ZipFile(options.output, "w") as archive:
        for name, array in zip(ARRAYS, train + test, strict=True):
            member = zipfile.ZipInfo(f"{name}.npy")  # its date is fixed, so are the bytes
            member.create_system = 3
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            archive.writestr(member, buffer.getvalue(), zipfile.ZIP_BZIP2)


if __name__ == "__main__":
    main()
