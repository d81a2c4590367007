"""The functions that the networks of `keras.applications` are made by."""

import sys
from collections.abc import Callable

import keras


def family_of(network: Callable[..., keras.Model], name: str) -> Callable[..., keras.Model]:
    """Returns the function that makes networks of other widths and depths of a family.

    Relies on it being in the module that the family's networks are defined in.

    Args:
        network: One of the family, such as `keras.applications.EfficientNetB0`.
        name: The name of the function, such as `"EfficientNet"`.
    """
    return getattr(sys.modules[network.__module__], name)
