"""Held: stores an object of the user so that Keras neither tracks nor saves it."""

from typing import Any


class Held:
    """Keeps a value on a layer or model, which would otherwise count its parts among its own.

    Keras tracks layers, metrics and variables that are assigned to an attribute, in lists and
    dicts as well: they are then trained, logged and saved. What a layer trains or saves itself is
    not to be held.

    Args:
        value: Anything. A call returns it.

    Example:
        >>> import keras
        >>> layer = keras.layers.Layer()
        >>> layer.kept = Held({"metrics": [keras.metrics.F1Score()]})
        >>> layer.metrics, layer.kept()["metrics"][0].name
        ([], 'f1_score')
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        """Returns the value."""
        return self._value
