"""Calls of `fit` that have not ended, read from the stack."""

import functools
import inspect
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import keras


class RunningFit(NamedTuple):
    """A call of `fit` that has not ended.

    Attributes:
        first: The epoch that it began with.
        epoch: The epoch that it is in; `None` before the first one.
        batches: Goes through its data; an object of this call alone, `None` before it is made.
        callbacks: Its callbacks in their order, Keras' own among them; empty before they are known.
        data: What it was given to train on and to validate with.
        shuffle: What it was given for whether to shuffle.
    """

    first: int
    epoch: int | None
    batches: Any
    callbacks: list[keras.callbacks.Callback]
    data: tuple[Any, Any]
    shuffle: Any

    @property
    def goes_on(self) -> bool:
        """Whether an epoch goes on in the data where the last one ended (`steps_per_epoch`)."""
        return getattr(self.batches, "steps_per_epoch", None) is not None


def running_fit() -> RunningFit | None:
    """Returns the innermost `fit` of this thread, `None` where none runs.

    Keras tells the epoch to callbacks alone, and nobody that a `fit` was broken off. A pipeline has
    no callbacks, and what is announced to it would outlive an error or Ctrl-C. Relies on the names
    of the local variables of `Model.fit`: `initial_epoch`, `epoch`, `epoch_iterator`, `callbacks`,
    `x`, `validation_data` and `shuffle`.
    """
    return next(_fits(sys._getframe()), None)


def running_fits() -> tuple[list[RunningFit], list[list[RunningFit]]]:
    """Returns the calls of `fit` of this thread, the innermost first, and those of each other.

    Relies on what `running_fit` does, and on CPython's `sys._current_frames`.
    """
    every = sys._current_frames()
    own = list(_fits(every.pop(threading.get_ident())))
    return own, [fits for fits in (list(_fits(frame)) for frame in every.values()) if fits]


def _fits(frame: FrameType | None) -> Iterator[RunningFit]:
    code = _code_of_fit()
    while frame is not None:
        if frame.f_code is code:
            yield _read(frame)
        frame = frame.f_back


@functools.cache
def _code_of_fit() -> CodeType:
    return inspect.unwrap(keras.Model.fit).__code__


def _read(frame: FrameType) -> RunningFit:
    found = frame.f_locals
    callbacks = getattr(found.get("callbacks"), "callbacks", ())
    return RunningFit(
        first=found.get("initial_epoch", 0),
        epoch=found.get("epoch"),
        batches=found.get("epoch_iterator"),
        callbacks=list(callbacks),
        data=(found.get("x"), found.get("validation_data")),
        shuffle=found.get("shuffle"),
    )
