"""Shard files: read in pieces that are verified whenever they are read, few of them open at a time.

Pieces are read at an offset, not from a memory mapping: if a file is truncated meanwhile, reading
raises an error, while a mapping would end the process. Files need not stay open either.
"""

import errno
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

import numpy as np

_MOST_OPEN = 4096
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class DamagedError(ValueError):
    """A file is not what was written."""


class Piece(NamedTuple):
    """Some rows that follow one another in a file.

    Attributes:
        begin: Where the first of them begins.
        into: The memory that they fill, (rows, bytes) uint8.
        checksums: What `zlib.crc32` has to give for each.
    """

    begin: int
    into: np.ndarray
    checksums: Sequence[int]


class ShardFile:
    """A file of rows whose checksums the reader knows.

    Args:
        path: The file.

    Attributes:
        size: Its number of bytes.

    Raises:
        FileNotFoundError: If it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.close()  # what is open may be one whose place another file has taken
        file = _kept.open(path)  # is closed when nothing refers to it
        self.size = os.fstat(file.descriptor).st_size

    def head(self, size: int) -> bytes:
        """Returns the first bytes of the file, which nobody has verified.

        Raises:
            DamagedError: If it has less.
        """
        content = bytearray(min(size, self.size))
        file = _kept.open(self.path)
        if _read_at(file.descriptor, 0, content) != size:
            raise DamagedError(
                f"{self.path} has {self.size} bytes, and {size} in front of its rows"
            )
        return bytes(content)

    def read(self, pieces: Iterable[Piece]) -> None:
        """Reads pieces of the file, in the order given, and verifies each row.

        Raises:
            DamagedError: If one of them is not what was written.
        """
        pieces = list(pieces)
        try:
            try:
                self._read(pieces)
            except (DamagedError, OSError):
                # What has taken its place under the same name may be whole.
                self.close()
                self._read(pieces)
        except (DamagedError, OSError) as error:
            self.close()
            raise DamagedError(
                f"{self.path} has been changed, cut or removed since it was written ({error}). "
                "cache.fill(dataset) computes again what is missing"
            ) from error

    def close(self) -> None:
        """Closes the file, which is opened again when it is read."""
        _kept.close(self.path)

    def _read(self, pieces: Iterable[Piece]) -> None:
        file = _kept.open(self.path)
        for begin, into, checksums in pieces:
            if _read_at(file.descriptor, begin, into) != into.nbytes:
                raise DamagedError(f"it ends before byte {begin + into.nbytes}")
            for row, checksum in zip(into, checksums, strict=True):
                if zlib.crc32(row) != checksum:
                    raise DamagedError(
                        f"the checksum of a row among bytes {begin} to {begin + into.nbytes} is "
                        "wrong"
                    )


class _OpenFile:
    """A file that is open until nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, _FLAGS)

    def __del__(self, close: Any = os.close) -> None:
        # There is none where the file could not be opened.
        if hasattr(self, "descriptor"):
            close(self.descriptor)


class _KeptFiles:
    """The files that are open: those used last, and no more than the process can afford."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[Path, _OpenFile] = OrderedDict()

    def open(self, path: Path) -> _OpenFile:
        """Returns a file that is open, by its path."""
        with self._lock:
            if path in self._files:
                self._files.move_to_end(path)
                return self._files[path]
        try:
            file = _OpenFile(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._keep(0)
            file = _OpenFile(path)
        with self._lock:
            self._files[path] = file
        self._keep(_affordable())
        return file

    def close(self, path: Path) -> None:
        """Closes a file once nobody reads it any more."""
        with self._lock:
            self._files.pop(path, None)

    def _keep(self, most: int) -> None:
        with self._lock:
            while len(self._files) > most:
                self._files.popitem(last=False)


_kept = _KeptFiles()


def _affordable() -> int:
    """Returns how many files may stay open: half of what the process may have."""
    if resource is None:
        return _MOST_OPEN
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 2))


def _read_at(descriptor: int, begin: int, into: Any) -> int:
    """Fills a buffer from a place on, and returns how many bytes there were."""
    # Systems read 2 GiB at most at once.
    view, done = memoryview(into).cast("B"), 0
    while several := _read_some(descriptor, begin + done, view[done:]):
        done += several
        if done == view.nbytes:
            break
    return done


if hasattr(os, "preadv"):

    def _read_some(descriptor: int, begin: int, into: memoryview) -> int:
        """Reads into a buffer from a place on, and returns how many bytes that were."""
        return os.preadv(descriptor, [into], begin)

else:
    _SEEKING = threading.Lock()

    def _read_some(descriptor: int, begin: int, into: memoryview) -> int:
        """Reads into a buffer from a place on, and returns how many bytes that were."""
        with _SEEKING:
            os.lseek(descriptor, begin, os.SEEK_SET)
            content = os.read(descriptor, min(len(into), 2**30))
        into[: len(content)] = content
        return len(content)
