"""Shards: files of rows by sample and view, each written whole or not at all, read from the disk.

A file is, in this order: `MAGIC`; the length of the header, 8 bytes, little-endian; the header,
JSON in UTF-8, padded with spaces, whose `"arrays"` lists dtype and shape of each array, and whose
`"teacher"` is a hash of the teacher's weights; the arrays' bytes. The first two arrays are the
samples' indices and the checksums of their inputs. The file's name has the view and the SHA-256 of
the content, so processes that write at once do no harm.
"""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modreduce_keras import whole_files
from modreduce_keras.data.shard_files import ShardFile, sha256_of
from modreduce_keras.fingerprints import STRINGS, content_of

MAGIC = b"modreduce_keras shard 1\n"
_data = attrgetter("data")
_NAME = re.compile(r"view-(\d{4,})-([0-9a-f]{64})\.shard")


class Column(NamedTuple):
    """An array of a file: its dtype, its shape, where it begins, and the bytes of a row."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    row_size: int


class Shard(NamedTuple):
    """One file: which samples it has, and their rows, which stay on the disk until they are read.

    Attributes:
        file: The file, verified.
        view: Which view of the samples it is of.
        teacher: A hash of the teacher's weights; `None` in files that do not say.
        samples: The samples' indices, (rows,).
        checksums: Checksums of the inputs, (rows,) uint64.
        columns: Where the outputs are, (rows, ...) each.
    """

    file: ShardFile
    view: int
    teacher: str | None
    samples: np.ndarray
    checksums: np.ndarray
    columns: list[Column]

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path


def write(
    folder: Path,
    view: int,
    samples: np.ndarray,
    checksums: np.ndarray,
    outputs: Sequence[np.ndarray],
    teacher: str | None = None,
) -> None:
    """Writes a shard.

    Args:
        folder: Where.
        view: Which view of the samples it is of.
        samples: The samples' indices, (rows,) int64.
        checksums: Checksums of their inputs, (rows,) uint64.
        outputs: What belongs to them, (rows, ...) each.
        teacher: A hash of the weights of the teacher that gave them.
    """
    arrays = [np.ascontiguousarray(array) for array in (samples, checksums, *outputs)]
    described = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays]
    header = json.dumps({"arrays": described, "teacher": teacher}).encode()
    begin = len(MAGIC) + 8
    header += b" " * (-(begin + len(header)) % 64)
    parts: list[Any] = [MAGIC, len(header).to_bytes(8, "little"), header, *map(_bytes, arrays)]
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
        FileNotFoundError: If it is gone.
    """
    view, expected = _parts_of(path.name)
    file = ShardFile(path, expected)
    begin = len(MAGIC) + 8
    size = int.from_bytes(_bytes_of(file, len(MAGIC), 8), "little")
    header = json.loads(_bytes_of(file, begin, size))
    begin, columns = begin + size, []
    for described in header["arrays"]:
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        columns.append(Column(dtype, shape, begin, dtype.itemsize * math.prod(shape[1:])))
        begin += columns[-1].row_size * shape[0]
    samples, checksums = (_read(file, column) for column in columns[:2])
    return Shard(file, int(view), header.get("teacher"), samples, checksums, columns[2:])


def is_whole(path: Path, name: Path) -> bool:
    """Returns whether a file has the content that the name of a shard says."""
    return sha256_of(path) == _parts_of(name.name)[1]


def _parts_of(name: str) -> tuple[str, str]:
    """Returns the view and the checksum in the name of a shard."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"A shard is named by its view and checksum. Received: {name!r}")
    return found[1], found[2]


def _read(file: ShardFile, column: Column) -> np.ndarray:
    array = np.empty(column.shape, column.dtype)
    if array.size:
        file.read([(column.begin, array.nbytes, _bytes(array))])
    return array


def _bytes_of(file: ShardFile, begin: int, size: int) -> bytes:
    content = bytearray(size)
    file.read([(begin, size, content)])
    return bytes(content)


class Rows:
    """Finds the rows of samples among shards, by index and checksum, and reads them.

    Args:
        shards: All shards, of every view.
        views: The number of views.
    """

    def __init__(self, shards: Sequence[Shard], views: int) -> None:
        self._shards = list(shards)
        self.samples = np.unique(np.concatenate([shard.samples for shard in shards]))
        self._checksums = np.zeros((views, len(self.samples)), np.uint64)
        # Where a sample's row is: in which shard, -1 for nowhere, and which row of it.
        self._shard = np.full((views, len(self.samples)), -1, np.int32)
        self._row = np.zeros((views, len(self.samples)), np.int32)
        for number, shard in enumerate(self._shards):
            indices = np.searchsorted(self.samples, shard.samples)
            self._checksums[shard.view, indices] = shard.checksums
            self._shard[shard.view, indices] = number
            self._row[shard.view, indices] = np.arange(len(indices))

    def find(self, samples: np.ndarray, checksums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns shard and row of each sample, in the view of that checksum; -1 for none."""
        indices = np.minimum(np.searchsorted(self.samples, samples), len(self.samples) - 1)
        fits = (self._checksums[:, indices] == checksums) & (self._shard[:, indices] >= 0)
        fits &= self.samples[indices] == samples
        view = fits.argmax(axis=0)
        shard = np.where(fits.any(axis=0), self._shard[view, indices], -1)
        return shard, self._row[view, indices]

    def take(
        self, shard: np.ndarray, row: np.ndarray, chosen: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Returns the outputs of rows that `find` has found: all, or those of some numbers."""
        first = self._shards[0].columns
        chosen = range(len(first)) if chosen is None else chosen
        taken = [np.empty((len(row), *first[n].shape[1:]), first[n].dtype) for n in chosen]
        contents, rows = [_bytes_by_row(one) for one in taken], defaultdict(list)
        for index, (number, at) in enumerate(zip(shard.tolist(), row.tolist(), strict=True)):
            rows[number].append((index, at))
        for number, pairs in rows.items():
            one, pieces = self._shards[number], []
            for into, n in zip(contents, chosen, strict=True):
                _, _, begin, size = one.columns[n]
                if size:
                    pieces += [(begin + size * at, size, into[index]) for index, at in pairs]
            one.file.read(pieces)
        return taken


def checksums_of(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a checksum of each sample's inputs, (batch,) uint64.

    Args:
        arrays: The inputs, (batch, ...) each.
    """
    arrays = [np.asarray(array, order="C") for array in arrays]
    contents = [content_of if array.dtype.kind in STRINGS else _data for array in arrays]
    arrays = [one if one.dtype.kind in STRINGS else _bytes_by_row(one) for one in arrays]
    checksums = np.empty(len(arrays[0]), np.uint64)
    for index in range(len(checksums)):
        digest = hashlib.blake2b(digest_size=8)
        for content, array in zip(contents, arrays, strict=True):
            digest.update(content(array[index]))
        checksums[index] = int.from_bytes(digest.digest(), "little")
    return checksums


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _bytes_by_row(array: np.ndarray) -> np.ndarray:
    """Returns the same memory as bytes, (rows, bytes): bfloat16 has no buffer of its own."""
    return array.reshape(len(array), math.prod(array.shape[1:])).view(np.uint8)
