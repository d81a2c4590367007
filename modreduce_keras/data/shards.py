"""Shards: files of rows by sample and view, each written whole or not at all, read from the disk.

A file is, in this order: `MAGIC`; the length of the head and that of the header, 8 bytes each,
little-endian; the header, JSON in UTF-8, padded with spaces, whose `"arrays"` lists dtype and shape
of each array, and whose `"teacher"` is a hash of the teacher's weights; the arrays' bytes. The
first three arrays belong to the head: the samples' indices, the checksums of their inputs, and the
CRC-32 of each row of each output. The others are the outputs.

The file's name has the view and the SHA-256 of the head, and with it of all checksums: a cache is
opened by reading heads alone, and no row is ever given that is not the one that was written.
Processes that write at once do no harm.
"""

import hashlib
import json
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modreduce_keras import whole_files
from modreduce_keras.data.shard_files import DamagedError, Piece, ShardFile

MAGIC = b"modreduce_keras shard 2\n"
_EARLIER = b"modreduce_keras shard 1\n"
_LENGTH = 8
_BLOCK = 2**22
_DENSE = 8
"""Of how many possible indices one has to be there, so that all are gone through."""
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
        file: The file, whose head is verified.
        view: Which view of the samples it is of.
        teacher: A hash of the teacher's weights; `None` in files that do not say.
        samples: The samples' indices, (rows,).
        checksums: Checksums of the inputs, (rows,) uint64.
        row_checksums: Checksums of the rows, (rows, outputs) uint32.
        columns: Where the outputs are, (rows, ...) each.
    """

    file: ShardFile
    view: int
    teacher: str | None
    samples: np.ndarray
    checksums: np.ndarray
    row_checksums: np.ndarray
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
    outputs = [np.ascontiguousarray(output) for output in outputs]
    by_row = [[zlib.crc32(row) for row in _bytes_by_row(output)] for output in outputs]
    row_checksums = np.array(by_row, np.uint32).T
    index = [np.ascontiguousarray(array) for array in (samples, checksums, row_checksums)]
    described = [
        {"dtype": array.dtype.name, "shape": list(array.shape)} for array in (*index, *outputs)
    ]
    header = json.dumps({"arrays": described, "teacher": teacher}).encode()
    begin = len(MAGIC) + 2 * _LENGTH
    header += b" " * (-(begin + len(header)) % 64)
    size = begin + len(header) + sum(array.nbytes for array in index)
    lengths = (length.to_bytes(_LENGTH, "little") for length in (size, len(header)))
    head = b"".join([MAGIC, *lengths, header, *map(_bytes, index)])
    name = f"view-{view:04d}-{hashlib.sha256(head).hexdigest()}.shard"
    with whole_files.writing(folder / name) as file:
        file.write(head)
        file.writelines(map(_bytes, outputs))


def paths(folder: Path) -> list[Path]:
    """Returns the shards of a folder, by view."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def read(path: Path, name: str | None = None) -> Shard:
    """Returns a shard whose head is verified; its rows are whenever they are read.

    Args:
        path: The file.
        name: The name that a shard of this content has. Defaults to that of the file.

    Raises:
        DamagedError: If its head is torn or altered, or its size is another one.
        FileNotFoundError: If it is gone.
        ValueError: If an earlier version has written it.
    """
    view, expected = _parts_of(name or path.name)
    file = ShardFile(path)
    begin = len(MAGIC) + 2 * _LENGTH
    start = file.head(begin)
    if start.startswith(_EARLIER):
        raise ValueError(
            f"{path} was written by an earlier version of modreduce_keras, whose caches this one "
            "does not read. Remove the folder, or give another one, and call cache.fill(dataset)"
        )
    size, header_size = (
        int.from_bytes(start[-length * _LENGTH :][:_LENGTH], "little") for length in (2, 1)
    )
    head = file.head(size)
    if hashlib.sha256(head).hexdigest() != expected:
        raise DamagedError(f"{path} has {file.size} bytes whose checksum is wrong")
    header = json.loads(head[begin : begin + header_size])
    begin, columns = begin + header_size, []
    for described in header["arrays"]:
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        columns.append(Column(dtype, shape, begin, dtype.itemsize * math.prod(shape[1:])))
        begin += columns[-1].row_size * shape[0]
    if file.size != begin:
        raise DamagedError(f"{path} has {file.size} bytes instead of {begin}")
    samples, checksums, row_checksums = (
        np.frombuffer(head, dtype, math.prod(shape), first).reshape(shape)
        for dtype, shape, first, _ in columns[:3]
    )
    teacher = header.get("teacher")
    return Shard(file, int(view), teacher, samples, checksums, row_checksums, columns[3:])


def verify(shard: Shard) -> None:
    """Reads all rows of a shard.

    Raises:
        DamagedError: If one of them is not what was written.
    """
    number = len(shard.samples)
    for (_, _, begin, size), checksums in zip(shard.columns, shard.row_checksums.T, strict=True):
        rows = max(1, _BLOCK // max(1, size))
        into = np.empty((min(rows, number), size), np.uint8)
        for first in range(0, number, rows):
            own = checksums[first : first + rows].tolist()
            shard.file.read([Piece(begin + size * first, into[: len(own)], own)])


def is_whole(path: Path, name: str) -> bool:
    """Returns whether a file has the content that the name of a shard says."""
    try:
        shard = read(path, name)
        verify(shard)
    except DamagedError:
        return False
    return True


def _parts_of(name: str) -> tuple[str, str]:
    """Returns the view and the checksum in the name of a shard."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"A shard is named by its view and checksum. Received: {name!r}")
    return found[1], found[2]


class Rows:
    """Finds the rows of samples among shards, by index and checksum, and reads them.

    Args:
        shards: All shards, of every view.
        views: The number of views.
    """

    def __init__(self, shards: Sequence[Shard], views: int) -> None:
        self._shards = list(shards)
        self.samples = _united([shard.samples for shard in shards])
        self._checksums = np.zeros((views, len(self.samples)), np.uint64)
        # Where a sample's row is: in which shard, -1 for nowhere, and which row of it.
        self._shard = np.full((views, len(self.samples)), -1, np.int32)
        self._row = np.zeros((views, len(self.samples)), np.int32)
        for number, shard in enumerate(self._shards):
            indices = self._indices(shard.samples)
            self._checksums[shard.view, indices] = shard.checksums
            self._shard[shard.view, indices] = number
            self._row[shard.view, indices] = np.arange(len(indices))

    def find(self, samples: np.ndarray, checksums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns shard and row of each sample, in the view of that checksum; -1 for none."""
        indices = self._indices(samples)
        fits = (self._checksums[:, indices] == checksums) & (self._shard[:, indices] >= 0)
        fits &= self.samples[indices] == samples
        view = fits.argmax(axis=0)
        shard = np.where(fits.any(axis=0), self._shard[view, indices], -1)
        return shard, self._row[view, indices]

    def _indices(self, samples: np.ndarray) -> np.ndarray:
        """Returns where samples are among all; for those that are not, any index."""
        first, most = self.samples[0], len(self.samples) - 1
        if self.samples[-1] - first == most:  # without a gap
            return np.clip(samples - first, 0, most)
        return np.minimum(np.searchsorted(self.samples, samples), most)

    def count(self, view: int) -> int:
        """Returns the number of samples in a view."""
        return int(np.count_nonzero(self._shard[view] >= 0))

    def take(
        self, shard: np.ndarray, row: np.ndarray, chosen: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Returns the outputs of rows that `find` has found: all, or those of some numbers.

        Raises:
            DamagedError: If one of them is not what was written.
        """
        first = self._shards[0].columns
        chosen = range(len(first)) if chosen is None else chosen
        taken = [np.empty((len(row), *first[n].shape[1:]), first[n].dtype) for n in chosen]
        contents, indices = [_bytes_by_row(one) for one in taken], defaultdict(list)
        # In the order of the files and of the rows in them.
        for index in np.lexsort((row, shard)).tolist():
            indices[int(shard[index])].append(index)
        for number, several in indices.items():
            one, rows = self._shards[number], row[several]
            pieces = []
            for into, n in zip(contents, chosen, strict=True):
                _, _, begin, size = one.columns[n]
                checksums, at = one.row_checksums[rows, n].tolist(), rows.tolist()
                pieces += [
                    Piece(begin + size * at[k], into[index : index + 1], checksums[k : k + 1])
                    for k, index in enumerate(several)
                ]
            one.file.read(pieces)
        return taken


def _united(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Returns all indices that there are, in their order."""
    # Millions of them: `np.unique` takes seconds.
    every = np.concatenate([np.empty(0, np.int64), *samples])
    first, last = (int(every.min()), int(every.max())) if every.size else (0, 0)
    if last - first < _DENSE * every.size:
        present = np.zeros(last - first + 1, bool)
        present[every - first] = True
        return np.flatnonzero(present) + first
    every.sort()
    return every[np.append(True, every[1:] != every[:-1])] if every.size else every


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _bytes_by_row(array: np.ndarray) -> np.ndarray:
    """Returns the same memory as bytes, (rows, bytes): bfloat16 has no buffer of its own."""
    return array.reshape(len(array), math.prod(array.shape[1:])).view(np.uint8)
