"""Saving: whether it is Keras' saver that asks, and configs that Keras cannot write."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras


def is_asked_by_saver() -> bool:
    """Returns whether it is Keras' saver that has called `dir()`; to be asked in a `__dir__`.

    Relies on the saver walking the attributes that `dir()` shows, in `keras.src.saving.saving_lib`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "__dir__":
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == _SAVER


_SAVER = "keras.src.saving.saving_lib"


@contextlib.contextmanager
def classes_in_configs() -> Iterator[None]:
    """Lets `keras.saving` put classes into configs, and take them out, as they are.

    Keras fails at them, as at `norm_layer=LayerNormalization`. Such a config is for building a
    layer again at once, and not for files. Relies on layers calling the functions by one of their
    public names, and on Keras calling them in `keras.src.saving.serialization_lib`.
    """
    places = (keras.saving, keras.utils, keras.src.saving.serialization_lib)
    names = ("serialize_keras_object", "deserialize_keras_object")
    own = [(place, name, getattr(place, name)) for place in places for name in names]
    try:
        for place, name, function in own:
            setattr(place, name, _passing_classes(function))
        yield
    finally:
        for place, name, function in own:
            setattr(place, name, function)


def _passing_classes(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def passing(given: Any, *args: Any, **kwargs: Any) -> Any:
        return given if isinstance(given, type) else function(given, *args, **kwargs)

    return passing
