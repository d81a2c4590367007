"""Writer of a teacher cache: collects outputs of one view until they fill a shard."""

import contextlib
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modreduce_keras import whole_files
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.data import shards
from modreduce_keras.data.shard_files import DamagedError


class CacheWriter:
    """Outputs that are computed and not yet written: less than a shard and a batch.

    Args:
        folder: Where the shards are written.
        view: The view that the outputs are of.
        dtypes: What each of them is stored in.
        shard_size: Number of samples in a shard.
        teacher: The teacher's name, for messages.
        weights: A hash of the teacher's weights, which each shard says.
    """

    def __init__(
        self,
        folder: Path,
        view: int,
        dtypes: Sequence[str],
        shard_size: int,
        teacher: str,
        weights: str,
    ) -> None:
        self._folder, self._view, self._dtypes, self._size = folder, view, dtypes, shard_size
        self._teacher, self._weights, self._rows = teacher, weights, 0
        self._parts: list[Any] = []

    def add(self, samples: np.ndarray, checksums: np.ndarray, outputs: list[np.ndarray]) -> None:
        """Takes the outputs of some samples, and writes what fills a shard."""
        self._parts.append((samples, checksums, *map(self._stored, outputs, self._dtypes)))
        self._rows += len(samples)
        self.write()

    def write(self, everything: bool = False) -> None:
        """Writes all full shards, or everything."""
        size = self._size
        if self._rows < size and not (everything and self._rows):
            return
        arrays = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
        end = self._rows if everything else self._rows - self._rows % size
        for begin in range(0, end, size):
            samples, checksums, *outputs = (array[begin:end][:size] for array in arrays)
            shards.write(self._folder, self._view, samples, checksums, outputs, self._weights)
        self._rows -= end
        self._parts = [tuple(array[end:] for array in arrays)] if self._rows else []

    def _stored(self, values: np.ndarray, dtype: str) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = values.astype(dtype)
        if np.isfinite(values).all() and not np.isfinite(stored).all():
            raise ValueError(
                f"The teacher {self._teacher!r} gives values up to {np.abs(values).max():.3g}, "
                "which float16 does not hold. Store them in dtype='float32'"
            )
        return stored


def readable_shards(folder: Path) -> list[shards.Shard]:
    """Returns the shards of a folder, every row verified; damaged ones are removed with a warning.

    Another process may do the same at the same time, and write what was missing anew.
    """
    found = []
    for path in shards.paths(folder):
        try:
            shard = shards.read(path)
            shards.verify(shard)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            warnings.warn(
                f"{error}. It is removed and computed again.", stacklevel=stacklevel_of_user()
            )
            _remove(path)
        else:
            found.append(shard)
    return found


def _remove(path: Path) -> None:
    """Removes a damaged shard; one that is whole by now stays."""
    # Under a name of its own nobody else replaces it, between a look at it and its end.
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{whole_files.UNFINISHED}")
    with contextlib.suppress(FileNotFoundError):  # removed by another process
        path.replace(aside)
        if shards.is_whole(aside, path.name):
            aside.replace(path)
        aside.unlink(missing_ok=True)
