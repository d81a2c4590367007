"""Saving: whether it is Keras' saver that asks."""

import sys
from types import FrameType


def is_asked_by_saver() -> bool:
    """Returns whether it is Keras' saver that has called `dir()`; to be asked in a `__dir__`.

    Relies on the saver walking the attributes that `dir()` shows, in `keras.src.saving.saving_lib`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__dir__":
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == _SAVER


_SAVER = "keras.src.saving.saving_lib"
