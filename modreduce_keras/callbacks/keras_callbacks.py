"""What is particular about Keras' own callbacks when their state is kept."""

from pathlib import Path
from typing import Any

import keras

_MONITORING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)
_MADE_ANEW = (
    (keras.callbacks.Callback, {"_model", "params"}),
    (_MONITORING, {"monitor_op", "min_delta"}),  # the first gives the second its sign
    (keras.callbacks.ProgbarLogger, {"progbar", "seen", "target", "epochs", "_called_in_fit"}),
    (keras.callbacks.CSVLogger, {"csv_file", "writer", "append_header"}),
)


def made_anew(callback: keras.callbacks.Callback) -> set[str]:
    """Returns the attributes that Keras makes anew in each `fit`, from what else there is."""
    return set().union(*(names for kind, names in _MADE_ANEW if isinstance(callback, kind)))


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
