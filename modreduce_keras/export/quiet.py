"""Quiet: what TensorFlow's converter writes to the error stream is kept away from the user's."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

_ALONE = threading.RLock()
_ERRORS = 2
"""The process's error stream."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops warnings, log lines and what the process writes to its error stream.

    The converter writes there from C++, where Python's means do not reach. Errors are raised as
    always. It holds for the whole process, so it is for short work only.
    """
    tensorflow = logging.getLogger("tensorflow")
    with _ALONE, warnings.catch_warnings(), _no_error_stream():
        warnings.simplefilter("ignore")
        level = tensorflow.level
        tensorflow.setLevel(logging.ERROR)
        try:
            yield
        finally:
            tensorflow.setLevel(level)


@contextlib.contextmanager
def _no_error_stream() -> Iterator[None]:
    try:
        stream = os.dup(_ERRORS)
    except OSError:
        # Programs without a console have none.
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), _ERRORS)
    try:
        yield
    finally:
        os.dup2(stream, _ERRORS)
        os.close(stream)
