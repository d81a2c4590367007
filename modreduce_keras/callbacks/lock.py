"""Lock: lets one process at a time write into the folder of a run."""

import errno
import itertools
import os
from pathlib import Path

from filelock import FileLock, Timeout

_NAME = "lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system says that cannot lock files."""
_held: dict[Path, tuple[FileLock, int]] = {}
"""Of each folder that this process has locked: the lock and its owner."""
_owners = itertools.count()


def acquire(folder: Path) -> int:
    """Locks a folder for this process.

    Where the process has locked it before, the lock changes its owner. Where the file system cannot
    lock files, nothing is locked. The operating system lets go of the lock when the process ends,
    in whatever way.

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
        return owner
    folder.mkdir(parents=True, exist_ok=True)
    # Garbage collection, in any thread, may release it. A lock file that only its existence
    # makes a lock would outlive a kill.
    file = folder / _NAME
    lock = FileLock(file, thread_local=False, fallback_to_soft=False, on_acquired=_sign)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"Another process{_holder(file)} trains with checkpoints in {folder}. Wait for it, end "
            "it, or give this run a folder of its own."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return owner
    _held[folder] = lock, owner
    return owner


def release(folder: Path, owner: int) -> None:
    """Unlocks a folder, if the lock is still this owner's."""
    folder = folder.resolve()
    if _held.get(folder, (None, None))[1] == owner:
        _held.pop(folder)[0].release()


def _sign(file: int) -> None:
    """Writes the number of this process, for those that wait, into a locked file."""
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())


def _holder(file: Path) -> str:
    try:
        return f" (number {file.read_text('utf-8')})"
    except OSError:  # Windows locks what is in the file too.
        return ""
