"""Whole files: a file is written completely or not at all, and survives a power cut."""

import contextlib
import math
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows: there nothing is locked, and nothing abandoned is removed
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished"
"""How the names of files end that are being written, or were when their process was killed."""
_ABANDONED_AFTER = 3600.0


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside its place, which it takes at the end of the `with` block.

    What stood there stays until then. The unfinished file's name is that of the file with a random
    part, so that processes that write at once do no harm, and `UNFINISHED`.

    Args:
        path: The file, in a folder that exists.

    Returns:
        The file to write to, open for bytes.

    Raises:
        OSError: If it cannot be written, with its path. Then, and after any error in the block,
            nothing of it stays.
    """
    with _unfinished(path) as (file, beside):
        yield file
        _end(file)
        beside.replace(path)


def write(path: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all."""
    with writing(path) as file:
        file.write(content)


def create(path: Path, content: bytes) -> bool:
    """Writes a file as a whole, unless there is one: of several processes, one writes.

    Returns:
        Whether it was written; what stood there stays.

    Raises:
        OSError: If it cannot be written, with its path.
    """
    with _unfinished(path) as (file, beside):
        file.write(content)
        _end(file)
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            beside.replace(path)
        return True


def remove_abandoned(folder: Path) -> None:
    """Removes files that processes left which were killed while they wrote.

    A file that a process still writes is locked, so that it stays, whatever the clocks say; one
    that is not an hour old stays as well. Where files cannot be locked, all stay.
    """
    for path in folder.glob(f"*{UNFINISHED}"):
        remove_unlocked(path, older_than=_ABANDONED_AFTER)


def remove_unlocked(path: Path, *, older_than: float = -math.inf) -> None:
    """Removes an unfinished file, unless a process still writes it or files cannot be locked.

    Args:
        path: The file.
        older_than: How many seconds ago it must have been written for the last time.
    """
    with contextlib.suppress(OSError), path.open("rb+") as file:  # gone, or another user's
        if time.time() - os.fstat(file.fileno()).st_mtime > older_than and _lock(file):
            path.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives errors of the system that name no file the path of one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Opens a new file beside a path, locked, and removes it if it has not been moved."""
    with naming(path):
        file, beside = _begun(path)
        try:
            with file:
                yield file, beside
        finally:
            beside.unlink(missing_ok=True)
        _fsync_folder(path.parent)


def _begun(path: Path) -> tuple[BinaryIO, Path]:
    while True:
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
        file = beside.open("xb")
        _lock(file, wait=True)
        # One who removes what is abandoned may have been quicker than the lock.
        if fcntl is None or beside.exists():
            return file, beside
        file.close()


def _lock(file: BinaryIO, *, wait: bool = False) -> bool:
    """Locks a file until it is closed; returns whether that was possible, and nobody else has."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _end(file: BinaryIO) -> None:
    """Makes the content of a file last."""
    file.flush()
    os.fsync(file.fileno())
    if fcntl is None:
        file.close()  # Windows moves no file that is open


def put_folder(made: Path, place: Path) -> None:
    """Moves a finished folder to its place; an old one gives way, or stays if that fails.

    Args:
        made: The folder, in one of the same file system that is removed afterwards: what stood in
            the place is left beside it.
        place: Where it is to be.

    Raises:
        OSError: If it cannot be moved.
    """
    old = made.with_name(f"{made.name}.old")
    if place.exists():
        place.replace(old)
    try:
        made.replace(place)
    except OSError:
        if old.exists():
            old.replace(place)
        raise


def _fsync_folder(path: Path) -> None:
    """Makes the names in a folder last, where the system can (Windows opens no folders)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
