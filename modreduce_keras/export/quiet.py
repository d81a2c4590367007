"""Quiet: hides what converters write to the error stream."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

_ALONE = threading.RLock()
_LEVELS = {"tensorflow": logging.ERROR, "tf2onnx": logging.CRITICAL}
"""What loggers still say; tf2onnx also logs as errors what is told otherwise."""
_ERRORS = 2
"""The process's error stream."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops warnings, log lines and what the process writes to its error stream.

    Converters write there from C++, where Python's means do not reach. Errors are raised as
    always. It holds for the whole process, so it is for short work only.
    """
    loggers = {name: logging.getLogger(name) for name in _LEVELS}
    with _ALONE, warnings.catch_warnings(), _no_error_stream():
        warnings.simplefilter("ignore")
        levels = {name: logger.level for name, logger in loggers.items()}
        for name, logger in loggers.items():
            logger.setLevel(_LEVELS[name])
        try:
            yield
        finally:
            for name, logger in loggers.items():
                logger.setLevel(levels[name])


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
