"""CachedRows: the rows of a filled teacher cache, found by the index and a checksum of a sample."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modreduce_keras.data import shards
from modreduce_keras.data.index import as_index

_OTHER_DATA = (
    "Data to validate on go without attach, and the teacher runs on them; or fill a cache of their "
    "own in another folder."
)


class CachedRows:
    """Reads the stored outputs of batches.

    Args:
        rows: The rows of all shards.
        folder: That of the cache.
        views: Number of augmentations of each sample.
    """

    def __init__(self, rows: shards.Rows, folder: Path, views: int) -> None:
        self._rows, self._folder, self._views = rows, folder, views

    def read(
        self, samples: np.ndarray, checksums: np.ndarray, chosen: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Returns the arrays of a batch, all or chosen ones.

        Raises:
            ValueError: If a sample is missing, or its inputs are not those of any view.
        """
        samples = as_index(samples)
        shard, row = self._rows.find(samples, checksums)
        if (shard < 0).any():
            sample = int(samples[shard < 0][0])
            if sample not in self._rows.samples:
                raise ValueError(
                    f"The cache in {self._folder} has no sample {sample}: the data have others, or "
                    f"another index. It has {len(self._rows.samples)} samples. {_OTHER_DATA}"
                )
            raise ValueError(f"{unknown_inputs(self._folder, self._views, sample)} {_OTHER_DATA}")
        return self._rows.take(shard, row, chosen)


def unknown_inputs(folder: Path, views: int, sample: int) -> str:
    """Returns what is said of a sample whose inputs the teacher has not seen."""
    return (
        f"The inputs of sample {sample} are not those that the teacher saw in any of {views} "
        f"views, for the cache in {folder}. The data, their preprocessing, seed or number of "
        "augmentations have changed."
    )
