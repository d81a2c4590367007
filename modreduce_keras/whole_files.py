"""Whole files: what is written is there complete or not at all, and stays after a power cut."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"
"""How the names of files end that are being written, or were when their process was killed."""


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
        OSError: If it cannot be written. Then, and after any error in the block, nothing of it
            stays.
    """
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _fsync_folder(path.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all."""
    with writing(path) as file:
        file.write(content)


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
