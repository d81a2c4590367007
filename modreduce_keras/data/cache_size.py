"""Size of a teacher cache: how much of the disk its outputs take, altogether and for a token."""

import math
from pathlib import Path
from typing import NamedTuple

from modreduce_keras.data import cache_metadata, shards


class CacheSize(NamedTuple):
    """How much a cache takes.

    Attributes:
        files: The number of shards.
        rows: The number of samples, times views.
        tokens: The number of positions of a sample's logits, of all outputs together; an output
            without any counts 1.
        size: Bytes of all shards.
    """

    files: int
    rows: int
    tokens: int
    size: int

    @property
    def bytes_per_token(self) -> float:
        """Bytes of a position of the logits: with checksums, and with what else is stored of it."""
        return self.size / (self.rows * self.tokens)


def size_of(folder: Path) -> CacheSize:
    """Returns the size of the cache in a folder, by the heads of its files.

    Raises:
        ValueError: If there is none, or a file is damaged.
    """
    there = cache_metadata.manifest(folder)
    found = [shards.read(path) for path in shards.paths(folder)] if there else []
    if there is None or not found:
        raise ValueError(f"There is no cache in {folder}. Fill it first: cache.fill(dataset)")
    outputs = there["outputs"][len(there["taps"]) :]  # those of the taps come first
    return CacheSize(
        files=len(found),
        rows=sum(len(shard.samples) for shard in found),
        tokens=sum(math.prod(shape[:-1]) for shape, _ in outputs),
        size=sum(shard.file.size for shard in found),
    )
