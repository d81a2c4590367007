"""Labels that are class indices: whether they lie in range, where their values are known or not."""

from typing import Any

import keras
import numpy as np
from keras import ops


def in_range(labels: Any, classes: int, owner: str) -> tuple[Any, Any]:
    """Returns labels that may index classes, and which of them were in range.

    Args:
        labels: Class indices, (batch, ...), int.
        classes: The number of classes.
        owner: Who needs them, for the message.

    Returns:
        The labels, zero where they were out of range; and (batch, ...), bool, or `None` where all
        are known to be in range. In a graph the values are not known, and a check would make the
        device wait: there the caller makes a NaN of what is out of range.

    Raises:
        ValueError: If the values are known, and one is out of range.
    """
    values = _known(labels)
    if values is None:
        valid = ops.logical_and(labels >= 0, labels < classes)
        return ops.where(valid, labels, 0), valid
    require_in_range(values, classes, owner)
    return labels, None


def require_in_range(values: np.ndarray, classes: int, owner: str, ignored: Any = ()) -> None:
    """Raises unless every label is a class index, or one of those that are ignored."""
    wrong = ~((values >= 0) & (values < classes) & (values == np.floor(values)))
    for label in ignored:
        wrong &= values != label
    if wrong.any():
        besides = f" (and {sorted(ignored)}, which are ignored)" if ignored else ""
        raise ValueError(
            f"{owner} needs labels y that are class indices from 0 to {classes - 1}{besides}. "
            f"Received: y with {sorted({value.item() for value in values[wrong]})[:8]}"
        )


def _known(labels: Any) -> np.ndarray | None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            return None
    try:
        return np.asarray(ops.convert_to_numpy(labels))
    except Exception:
        # A tracer of another backend has no values.
        return None
