"""Checkpoint files: written whole or not at all, verified when they are read.

A file is, in this order: `MAGIC`; the length of the manifest, 8 bytes, little-endian; the manifest,
JSON in UTF-8, whose `"arrays"` lists name, dtype and shape of each array; the arrays' bytes; the
SHA-256 of everything before it, 32 bytes. Nothing in it is executed, unpickled or used as a path.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modreduce_keras import whole_files

MAGIC = b"modreduce_keras checkpoint 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_ENDED = "-ended"
_NAME = re.compile(
    rf"epoch-(\d{{6}})-step-(\d{{9}})({_ENDED})?\.checkpoint(.*{whole_files.UNFINISHED})?"
)


class DamagedError(ValueError):
    """A checkpoint file that is not what was written."""


class Position(NamedTuple):
    """Where training stands: the epoch, from 0, and how many of its steps are done."""

    epoch: int
    step: int


class Folder:
    """The checkpoints of one run, one file each.

    Args:
        path: The folder; it is made when the first checkpoint is written.
        keep: How many checkpoints to keep.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep

    def _named(self, *, unfinished: bool = False, ended: bool = False) -> list[Any]:
        paths = self.path.iterdir() if self.path.is_dir() else ()
        matches = ((_NAME.fullmatch(path.name), path) for path in paths)
        named = [(m, path) for m, path in matches if m and bool(m[4]) == unfinished]
        named = [(m, path) for m, path in named if unfinished or bool(m[3]) == ended]
        return sorted((Position(int(m[1]), int(m[2])), path) for m, path in named)

    def positions(self, *, ended: bool = False) -> list[Position]:
        """Returns of which positions there are checkpoints, the newest last.

        Args:
            ended: Whether to return where training has ended, and there is what `fit` left behind.
        """
        return [position for position, _ in self._named(ended=ended)]

    def file(self, position: Position, *, ended: bool = False) -> Path:
        """Returns the path of a position's checkpoint."""
        mark = _ENDED if ended else ""
        return self.path / f"epoch-{position.epoch:06d}-step-{position.step:09d}{mark}.checkpoint"

    def remove_unfinished(self) -> None:
        """Removes what a process left that was killed while it wrote; what one writes now stays."""
        for _, path in self._named(unfinished=True):
            whole_files.remove_unlocked(path)

    def write(
        self,
        position: Position,
        manifest: Mapping[str, Any],
        arrays: Iterable[tuple[str, np.ndarray]],
        *,
        ended: bool = False,
    ) -> None:
        """Writes a checkpoint and removes the oldest, keeping `keep`.

        At every moment the folder holds the checkpoints that were complete before.

        Raises:
            OSError: If it cannot be written; then nothing of it stays.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_files.writing(self.file(position, ended=ended)) as file:
            _write(file, {**manifest, **position._asdict()}, list(arrays))
        for other in self.positions(ended=True):  # training has gone on since
            if not ended or other != position:
                self.file(other, ended=True).unlink(missing_ok=True)
        # What is newer than this one was unreadable, and training will write it again.
        older = [other for other in self.positions() if other <= position]
        for other in older[: -self.keep]:
            self.file(other).unlink(missing_ok=True)

    def read(
        self, position: Position, *, ended: bool = False
    ) -> tuple[dict[str, Any], dict[str, memoryview]]:
        """Returns a checkpoint's manifest, and the bytes of its arrays by name.

        Raises:
            DamagedError: If the file is torn, altered or of another position.
            OSError: If it cannot be read.
        """
        content = memoryview(self.file(position, ended=ended).read_bytes())
        body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
        if len(content) < len(MAGIC) + 8 + _DIGEST_SIZE or body[: len(MAGIC)] != MAGIC:
            raise DamagedError(
                f"a file of {len(content)} bytes that does not begin as a checkpoint"
            )
        if hashlib.sha256(body).digest() != digest:
            raise DamagedError(f"a file of {len(content)} bytes whose checksum is wrong")
        begin = len(MAGIC) + 8
        end = begin + int.from_bytes(body[len(MAGIC) : begin], "little")
        manifest = json.loads(bytes(body[begin:end]))
        inside = Position(manifest["epoch"], manifest["step"])
        if inside != position:
            raise DamagedError(
                f"a file that was renamed: inside it is of epoch {inside.epoch}, step {inside.step}"
            )
        arrays, begin = {}, end
        for array in manifest["arrays"]:
            end = begin + array["bytes"]
            arrays[array["name"]], begin = body[begin:end], end
        return manifest, arrays


def _write(file: Any, manifest: Mapping[str, Any], arrays: list[tuple[str, np.ndarray]]) -> None:
    described = [
        {
            "name": name,
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "bytes": array.dtype.itemsize * math.prod(array.shape),
        }
        for name, array in arrays
    ]
    text = json.dumps({**manifest, "arrays": described}).encode()
    digest = hashlib.sha256()

    def put(part: Any) -> None:
        digest.update(part)
        file.write(part)

    put(MAGIC)
    put(len(text).to_bytes(8, "little"))
    put(text)
    for _, array in arrays:
        put(np.ascontiguousarray(array).reshape(-1).view("uint8").data)
    file.write(digest.digest())
