"""Callbacks of Keras: which of their attributes each `fit` makes anew."""

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
    """Returns the attributes of a callback that Keras makes anew in each `fit`.

    Relies on the names of the attributes of Keras' own callbacks.
    """
    return set().union(*(names for kind, names in _MADE_ANEW if isinstance(callback, kind)))
