"""Shards: files of rows by sample and view, each written whole or not at all, read from the disk.

A file is, in this order: `MAGIC`; the length of the header, 8 bytes, little-endian; the header,
JSON in UTF-8, padded with spaces, whose `"arrays"` lists dtype and shape of each array; the arrays'
bytes. The first two arrays are the samples' indices and the checksums of their inputs. The file's
name has the view and the SHA-256 of the content, so processes that write at once do no harm.
"""

import hashlib
import json
import re
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modreduce_keras import whole_files

MAGIC = b"modreduce_keras shard 1\n"
_NAME = re.compile(r"view-(\d{4,})-([0-9a-f]{64})\.shard")
_ABANDONED_AFTER = 3600.0
"""Seconds after which an unfinished file is no other process's any more."""
_BLOCK = 2**20
_MAPPED = weakref.WeakValueDictionary()
"""What is mapped, by device and inode, which no other file gets as long as it is mapped."""


class DamagedError(ValueError):
    """A shard that is not what was written."""


class Shard(NamedTuple):
    """One file: which samples it has, and their rows, which stay on the disk until they are read.

    Attributes:
        path: The file.
        view: Which view of the samples it is of.
        samples: The samples' indices, (rows,).
        checksums: Checksums of the inputs, (rows,) uint64.
        outputs: Arrays (rows, ...) that are mapped from the file.
    """

    path: Path
    view: int
    samples: np.ndarray
    checksums: np.ndarray
    outputs: list[np.ndarray]


def remove_abandoned(folder: Path) -> None:
    """Removes what processes left that were killed while they wrote."""
    for path in folder.glob(f"*{whole_files.UNFINISHED}"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                path.unlink()
        except FileNotFoundError:  # finished meanwhile
            continue


def write(
    folder: Path,
    view: int,
    samples: np.ndarray,
    checksums: np.ndarray,
    outputs: Sequence[np.ndarray],
) -> None:
    """Writes a shard.

    Args:
        folder: Where.
        view: Which view of the samples it is of.
        samples: The samples' indices, (rows,) int64.
        checksums: Checksums of their inputs, (rows,) uint64.
        outputs: What belongs to them, (rows, ...) each.
    """
    arrays = [np.ascontiguousarray(array) for array in (samples, checksums, *outputs)]
    described = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays]
    header = json.dumps({"arrays": described}).encode()
    begin = len(MAGIC) + 8
    header += b" " * (-(begin + len(header)) % 64)
    parts = [MAGIC, len(header).to_bytes(8, "little"), header, *map(_bytes, arrays)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    with whole_files.writing(folder / f"view-{view:04d}-{digest.hexdigest()}.shard") as file:
        file.writelines(parts)


def paths(folder: Path) -> list[Path]:
    """Returns the shards of a folder, by view."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def read(path: Path) -> Shard:
    """Returns a shard, verified.

    Raises:
        DamagedError: If the file is torn or altered.
    """
    view, expected = _NAME.fullmatch(path.name).groups()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise DamagedError(f"{path} has {path.stat().st_size} bytes whose checksum is wrong")
    content = _mapped(path)
    begin = len(MAGIC) + 8
    end = begin + int.from_bytes(content[len(MAGIC) : begin].tobytes(), "little")
    arrays = []
    for described in json.loads(content[begin:end].tobytes())["arrays"]:
        dtype, shape = np.dtype(described["dtype"]), described["shape"]
        begin, end = end, end + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays.append(content[begin:end].view(dtype).reshape(shape))
    samples, checksums = (np.array(array) for array in arrays[:2])
    return Shard(path, int(view), samples, checksums, arrays[2:])


def _mapped(path: Path) -> np.memmap:
    """Returns a file's bytes, mapped once in a process for all who read them."""
    about = path.stat()
    file = about.st_dev, about.st_ino
    content = _MAPPED.get(file)
    if content is None:
        content = _MAPPED[file] = np.memmap(path, np.uint8, mode="r")
    return content


class Rows:
    """Finds the rows of samples among shards, by index and checksum, and reads them.

    Args:
        shards: All shards, of every view.
        views: The number of views.
    """

    def __init__(self, shards: Sequence[Shard], views: int):
        self._shards = list(shards)
        self.samples = np.unique(np.concatenate([shard.samples for shard in shards]))
        self._checksums = np.zeros((views, len(self.samples)), np.uint64)
        # Where a sample's row is: in which shard, -1 for nowhere, and which row of it.
        self._shard = np.full((views, len(self.samples)), -1, np.int32)
        self._row = np.zeros((views, len(self.samples)), np.int32)
        for number, shard in enumerate(self._shards):
            places = np.searchsorted(self.samples, shard.samples)
            self._checksums[shard.view, places] = shard.checksums
            self._shard[shard.view, places] = number
            self._row[shard.view, places] = np.arange(len(places))

    def find(self, samples: np.ndarray, checksums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns shard and row of each sample, in the view of that checksum; -1 for none."""
        places = np.minimum(np.searchsorted(self.samples, samples), len(self.samples) - 1)
        fits = (self._checksums[:, places] == checksums) & (self._shard[:, places] >= 0)
        fits &= self.samples[places] == samples
        view = fits.argmax(axis=0)
        shard = np.where(fits.any(axis=0), self._shard[view, places], -1)
        return shard, self._row[view, places]

    def take(
        self, shard: np.ndarray, row: np.ndarray, chosen: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Returns the outputs of rows that `find` has found: all, or those of some numbers."""
        first = self._shards[0].outputs
        chosen = range(len(first)) if chosen is None else chosen
        taken = [np.empty((len(row), *first[n].shape[1:]), first[n].dtype) for n in chosen]
        for place, (number, at) in enumerate(zip(shard, row, strict=True)):
            outputs = self._shards[number].outputs
            for into, n in zip(taken, chosen, strict=True):
                into[place] = outputs[n][at]
        return taken


def checksums_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a checksum of each sample's inputs, (batch,) uint64.

    Args:
        arrays: The inputs, (batch, ...) each.
    """
    arrays = [np.ascontiguousarray(array) for array in arrays]
    checksums = np.empty(len(arrays[0]), np.uint64)
    for place in range(len(checksums)):
        digest = hashlib.blake2b(digest_size=8)
        for array in arrays:
            digest.update(array[place].data)
        checksums[place] = int.from_bytes(digest.digest(), "little")
    return checksums


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))
