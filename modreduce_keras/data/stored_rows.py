"""Stored rows: outputs of one or several teachers for the same samples, found by their index."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from modreduce_keras.data import output_rows


class StoredRows:
    """What is stored of each teacher: a row for each sample.

    Args:
        sources: The outputs of each teacher, see `output_rows.opened`.
        index: The index of the sample that each row is of, see there.
        argument: What `sources` were given as, for messages.

    Raises:
        ValueError: If one of the sources is no array of numbers, or teachers differ in shape or in
            the samples.
    """

    def __init__(self, sources: Sequence[Any], index: Any, argument: str) -> None:
        opened = [output_rows.opened(one, index, argument) for one in sources]
        self.tables, (self.index, *others) = [list(side) for side in zip(*opened, strict=True)]
        shapes = [table.shape for table in self.tables]
        if len(set(shapes)) > 1 or any(not np.array_equal(self.index, one) for one in others):
            raise ValueError(
                "Several teachers must have outputs of equal shapes for the same samples. "
                f"Received: {shapes}"
            )
        self._argument = argument
        self._order: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tables[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample's outputs."""
        return tuple(map(int, self.tables[0].shape[1:]))

    def require(self, independent: bool) -> None:
        """Raises unless the index fits and the outputs are what they are called.

        Args:
            independent: Whether probabilities are of independent labels.
        """
        output_rows.require_index(self.index, len(self))
        for table in self.tables:
            output_rows.looked_at(table, self._argument, independent)
        self._order = None if self.index is None else np.argsort(self.index)

    def of(self, samples: np.ndarray) -> list[np.ndarray]:
        """Returns the rows of samples, (samples, ...), of each teacher.

        Args:
            samples: Their index, (samples,).

        Raises:
            ValueError: If there is no row of a sample.
        """
        rows = self._numbers(samples)
        return [table[rows] for table in self.tables]

    def _numbers(self, samples: np.ndarray) -> np.ndarray:
        """Returns the number of the row of each sample."""
        size = len(self)
        if self.index is None or self._order is None:
            rows, there = samples, samples < size
        else:
            places = np.searchsorted(self.index, samples, sorter=self._order)
            rows = self._order[np.minimum(places, size - 1)]
            there = self.index[rows] == samples
        if not there.all():
            known = f"0 to {size - 1}" if self.index is None else f"the {size} of index="
            raise ValueError(
                f"The outputs have no row of the samples {samples[~there][:8].tolist()}: there are "
                f"rows of {known}. The data have other samples, or another index."
            )
        return rows
