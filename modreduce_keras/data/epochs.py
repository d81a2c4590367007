"""Finds the epoch in which data are read: that of the running `fit`, a given one, or the next."""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from modreduce_keras.arguments import require_integer
from modreduce_keras.keras_internals import RunningFit, inputs_of, running_fits


class _Given:
    """The epoch that `in_epoch` gives; `None` outside of it."""

    epoch: int | None = None


@contextlib.contextmanager
def in_epoch(epoch: int) -> Iterator[None]:
    """Sets the epoch of data that are read in a block, for custom training loops.

    `fit` does not need this. It is for loops that read `mr.data.epoch_shuffle` or
    `mr.data.cifar100` themselves: every iteration that begins in the block reads that epoch, in
    other threads too.

    Args:
        epoch: The number of the epoch, from 0.

    Raises:
        ValueError: If it is negative or not an integer.

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
    """Finds the epoch of each iteration of one dataset, when the iteration begins."""

    def __init__(self) -> None:
        self._iterations = 0
        self._batches, self._passes = lambda: None, 0

    def __call__(self) -> np.int64:
        """Returns the epoch of the iteration that begins."""
        return np.int64(self._present())

    def _present(self) -> int:
        if _Given.epoch is not None:
            return _Given.epoch
        fit = self._fit()
        if fit is None:
            self._iterations += 1
            return self._iterations - 1
        if fit.epoch is None or not fit.goes_on:
            return _epoch_of(fit)
        # A pass may begin within an epoch, and earlier where it is prefetched: they are counted.
        # Who asks is not told, so that what else reads the data counts as well.
        if self._batches() is not fit.batches:
            self._batches, self._passes = weakref.ref(fit.batches), 0
        self._passes += 1
        return fit.first + self._passes - 1

    def _fit(self) -> RunningFit | None:
        """Returns the `fit` that reads the data: a pipeline asks in its thread or in another.

        Raises:
            ValueError: If several may, which are not in the same epoch.
        """
        own, others = running_fits()
        if own:
            return next(filter(self._is_read_by, own), own[0])
        every = [fit for fits in others for fit in fits]
        found = list(filter(self._is_read_by, every)) or [fits[0] for fits in others]
        if len({_moment(fit) for fit in found}) > 1:
            raise ValueError(
                "Several fits run at once, in threads of one process, and it is not known of which "
                "one an epoch's data are read: give each fit a dataset of its own, another "
                "mr.data.epoch_shuffle(...), or read the data in a loop of your own, with "
                "mr.data.in_epoch(epoch). Received: fits that are in the epochs "
                f"{sorted(map(_epoch_of, found))}"
            )
        return found[0] if found else None

    def _is_read_by(self, fit: RunningFit) -> bool:
        return any(self._is_in(data) for data in fit.data)

    def _is_in(self, data: Any) -> bool:
        """Returns whether a dataset is known to be made of this one."""
        if getattr(data, _MARK, None) is self:
            return True
        return any(map(self._is_in, inputs_of(data)))

    def mark(self, dataset: Any) -> None:
        """Registers a dataset, so that the `fit` that reads it can be found."""
        setattr(dataset, _MARK, self)


_MARK = "_modreduce_keras_epochs"


def _epoch_of(fit: RunningFit) -> int:
    # Keras looks at the data before it trains.
    return fit.first if fit.epoch is None else fit.epoch


def _moment(fit: RunningFit) -> Any:
    """Returns what two calls of `fit` have in common that read the same epoch."""
    return id(fit.batches) if fit.goes_on else _epoch_of(fit)
