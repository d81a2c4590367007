"""Lock: one process at a time writes into the folder of a run."""

import itertools
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there nothing is locked
    fcntl = None  # type: ignore[assignment]

_NAME = "lock"
_held: dict[Path, tuple[int, int]] = {}
"""Of each folder that this process has locked: the descriptor of the file, and the owner."""
_owners = itertools.count()


def acquire(folder: Path) -> int:
    """Locks a folder for this process.

    Where the process has locked it before, the lock changes its owner. Where the file system cannot
    lock files, nothing is locked. The operating system lets
    go of the lock when the process ends, in whatever way.

    Args:
        folder: Is made where it is not there yet.

    Returns:
        The owner, for `release`.

    Raises:
        ValueError: If another process holds the lock.
        OSError: If the folder cannot be made or written to.
    """
    folder, owner = folder.resolve(), next(_owners)
    if folder in _held:
        _held[folder] = _held[folder][0], owner
    if fcntl is None or folder in _held:
        return owner
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
    except OSError:  # a file system without locks
        os.close(file)
        return owner
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    _held[folder] = file, owner
    return owner


def release(folder: Path, owner: int) -> None:
    """Unlocks a folder, if the lock is still this owner's."""
    folder = folder.resolve()
    if _held.get(folder, (None, None))[1] == owner:
        os.close(_held.pop(folder)[0])
