"""Special cases of Keras' own callbacks when their state is stored."""

from pathlib import Path
from typing import Any

import keras


def require_resumable(callback: keras.callbacks.Callback) -> None:
    """Raises if a callback of Keras is set up to forget what it did before a restart."""
    if isinstance(callback, keras.callbacks.CSVLogger) and not callback.append:
        raise ValueError(
            "A CSVLogger whose state is kept must not overwrite its file at a restart: "
            f"CSVLogger({callback.filename!r}, append=True). Received: append=False"
        )


def beside(callback: keras.callbacks.Callback) -> Any:
    """Returns what a callback of Keras keeps in a file of its own: the size of it, or `None`."""
    if not isinstance(callback, keras.callbacks.CSVLogger):
        return None
    if not callback.csv_file.closed:
        callback.csv_file.flush()
    return Path(callback.filename).stat().st_size


def take_back_beside(callback: keras.callbacks.Callback, size: Any) -> None:
    """Cuts off what a callback wrote into its file after the checkpoint."""
    if size is None or callback.csv_file.closed:  # closed: nothing was trained
        return
    callback.csv_file.flush()
    size = min(size, Path(callback.filename).stat().st_size)
    callback.csv_file.truncate(size)
    callback.append_header = size == 0
