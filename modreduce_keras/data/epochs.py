"""The epoch that data are read in: of the `fit` that runs, one that is given, or the next one."""

import contextlib
import weakref
from collections.abc import Iterator

import numpy as np

from modreduce_keras.arguments import require_integer
from modreduce_keras.keras_fit import running_fit


class _Given:
    """The epoch that `in_epoch` gives; `None` outside of it."""

    epoch: int | None = None


@contextlib.contextmanager
def in_epoch(epoch: int) -> Iterator[None]:
    """Lets a block read the data of an epoch, for training loops of your own.

    `fit` needs no such block. It is for what reads `mr.data.epoch_shuffle` or `mr.data.cifar100`
    by itself; every iteration that begins in the block is of that epoch.

    Args:
        epoch: The number of the epoch, from 0.

    Raises:
        ValueError: If it is no such integer.

    Example:
        >>> import tensorflow as tf, modreduce_keras as mr
        >>> train = mr.data.epoch_shuffle(tf.data.Dataset.range(4), seed=0)
        >>> with mr.data.in_epoch(5):
        ...     first, again = (list(map(int, train)) for _ in range(2))
        >>> first == again
        True
    """
    before, _Given.epoch = _Given.epoch, require_integer("epoch", epoch, least=0)
    try:
        yield
    finally:
        _Given.epoch = before


class Epochs:
    """Says which epoch an iteration of one dataset is of; a pipeline asks once for each."""

    def __init__(self):
        self._iterations = 0
        self._batches, self._passes = lambda: None, 0

    def __call__(self) -> np.int64:
        """Returns the epoch of the iteration that begins."""
        return np.int64(self._present())

    def _present(self) -> int:
        if _Given.epoch is not None:
            return _Given.epoch
        fit = running_fit()
        if fit is None:
            self._iterations += 1
            return self._iterations - 1
        if fit.epoch is None:  # Keras looks at the data before it trains
            return fit.first
        if not fit.goes_on:
            return fit.epoch
        # A pass may begin within an epoch, and earlier where it is prefetched: they are counted.
        if self._batches() is not fit.batches:
            self._batches, self._passes = weakref.ref(fit.batches), 0
        self._passes += 1
        return fit.first + self._passes - 1
