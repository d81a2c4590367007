"""Batches of data that a callback runs models on, again and again."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


class Batches:
    """Goes through arrays or a dataset, batch by batch, as often as it is asked to.

    Args:
        data: `x`, `(x, y)` or `(x, y, sample_weight)` as arrays, or a `tf.data.Dataset` or
            `keras.utils.PyDataset` of such batches.
        batch_size: Batch size for arrays.

    Raises:
        TypeError: If the data are of another kind.
        ValueError: If there is a tuple of more than three, or the arrays differ in their numbers of
            samples.
    """

    def __init__(self, data: Any, batch_size: int):
        self.is_array = not isinstance(data, (tf.data.Dataset, keras.utils.PyDataset))
        self.batch_size = batch_size
        self._data = data
        if self.is_array:
            self._data = data if isinstance(data, tuple) else (data,)
            self._require_arrays(data)

    def _require_arrays(self, given: Any) -> None:
        arrays = self._arrays()
        if not arrays or not all(getattr(array, "shape", ()) for array in arrays):
            kind = None if given is None else type(given).__name__
            raise TypeError(
                "data must be arrays, as x, (x, y) or (x, y, sample_weight), a tf.data.Dataset or "
                f"a keras.utils.PyDataset. Received: data of type {kind}"
            )
        if len(self._data) > 3:
            raise ValueError(
                "data as a tuple is (x, y) or (x, y, sample_weight); several inputs are a list or "
                f"a dict. Received: a tuple of {len(self._data)}"
            )
        sizes = [len(array) for array in arrays]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"data must be arrays of equal numbers of samples. Received: {sizes} samples"
            )

    def _arrays(self) -> list[Any]:
        return [array for array in keras.tree.flatten(self._data) if array is not None]

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches, in the form in which they were given."""
        if isinstance(self._data, tf.data.Dataset):
            yield from self._data
        elif isinstance(self._data, keras.utils.PyDataset):
            for number in range(self._data.num_batches):
                yield self._data[number]
            self._data.on_epoch_end()
        else:
            for begin in range(0, len(self._arrays()[0]), self.batch_size):
                yield self._slice(begin)

    def _slice(self, begin: int) -> Any:
        def rows(array):
            return None if array is None else array[begin : begin + self.batch_size]

        return keras.tree.map_structure(rows, self._data)
