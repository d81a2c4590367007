"""Shard files: verified once, then read in pieces, with few of them open at a time.

Pieces are read at an offset, not from a memory mapping: if a file is truncated meanwhile, reading
raises an error, while a mapping would end the process. Files need not stay open either.
"""

import errno
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_BLOCK = 2**20
_MOST_OPEN = 4096
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class DamagedError(ValueError):
    """A file is not what was written."""


class ShardFile:
    """A file whose content has to have a checksum, and its pieces.

    Whether the file has been changed since is looked at whenever it is read: by its size, times
    and identity, and by the checksum where these are others than before. A change between that
    look and the reading is noticed at the next reading.

    Args:
        path: The file.
        sha256: The checksum of its content, in hexadecimal.

    Raises:
        DamagedError: If it has another one.
        FileNotFoundError: If it is not there.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self.path, self._sha256 = path, sha256
        _kept.close(path)  # what is open may be one whose place another file has taken
        file = _kept.open(path)
        self._state = file.state()
        if file.sha256() != sha256:
            _kept.close(path)
            raise DamagedError(f"{path} has {self._state[0]} bytes whose checksum is wrong")

    def read(self, pieces: Iterable[tuple[int, int, Any]]) -> None:
        """Reads pieces of the file.

        Args:
            pieces: For each, where it begins, its size, and the array or buffer that it fills.

        Raises:
            DamagedError: If the file is not what it was.
        """
        try:
            file = self._unchanged()
            for begin, size, into in pieces:
                if _read_at(file.descriptor, begin, into) != size:
                    raise DamagedError(f"it ends before byte {begin + size}")
        except (DamagedError, OSError) as error:
            _kept.close(self.path)
            raise DamagedError(
                f"{self.path} has been changed, cut or removed since it was verified ({error}). "
                "cache.fill(dataset) computes again what is missing"
            ) from error

    def _unchanged(self) -> "_OpenFile":
        """Returns the file, verified again where it does not look as before."""
        file = _kept.open(self.path)
        state = file.state()
        if state == self._state:
            return file
        if file.sha256() != self._sha256:
            # What has taken its place under the same name may be whole.
            _kept.close(self.path)
            file = _kept.open(self.path)
            state = file.state()
            if file.sha256() != self._sha256:
                raise DamagedError("its checksum is wrong")
        self._state = state
        return file


def sha256_of(path: Path) -> str:
    """Returns the checksum of a file, in hexadecimal."""
    return _OpenFile(path).sha256()


class _OpenFile:
    """A file that is open until nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, _FLAGS)

    def __del__(self, close: Any = os.close) -> None:
        # There is none where the file could not be opened.
        if hasattr(self, "descriptor"):
            close(self.descriptor)

    def state(self) -> tuple[int, ...]:
        """Returns size, times and identity: what is another one after a change."""
        about = os.fstat(self.descriptor)
        times = about.st_mtime_ns, about.st_ctime_ns
        return about.st_size, *times, about.st_dev, about.st_ino

    def sha256(self) -> str:
        """Returns the checksum of the content."""
        digest, begin, block = hashlib.sha256(), 0, bytearray(_BLOCK)
        while several := _read_at(self.descriptor, begin, block):
            digest.update(memoryview(block)[:several])
            begin += several
        return digest.hexdigest()


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
