"""Lock: one process at a time writes into the folder of a run."""

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there nothing is locked
    fcntl = None

_NAME = "lock"
_held: dict[Path, int] = {}
"""Descriptors of the files that this process has locked, by folder."""


def acquire(folder: Path) -> None:
    """Locks a folder for this process, which may have locked it before.

    The operating system lets go of the lock when the process ends, in whatever way.

    Args:
        folder: Is made where it is not there yet.

    Raises:
        ValueError: If another process holds the lock.
        OSError: If the folder cannot be made or written to.
    """
    folder = folder.resolve()
    if fcntl is None or folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(file, 20).decode()
        os.close(file)
        raise ValueError(
            f"Another process (number {holder}) trains with checkpoints in {folder}. Wait for it, "
            "end it, or give this run a folder of its own."
        ) from error
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    _held[folder] = file


def release(folder: Path) -> None:
    """Unlocks a folder, if this process has locked it."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        os.close(file)
