"""Masks that Keras attaches to tensors."""

from typing import Any

from keras.src.backend.common.masking import get_keras_mask, set_keras_mask


def mask_of(tensor: Any) -> Any:
    """Returns the mask that Keras has attached to a tensor, or `None`.

    Relies on `get_keras_mask` of `keras.src.backend.common.masking`; the public API attaches and
    reads none.
    """
    return get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attaches a mask to a tensor, as layers do.

    Relies on `set_keras_mask` of `keras.src.backend.common.masking`.
    """
    set_keras_mask(tensor, mask)
