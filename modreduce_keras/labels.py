"""Labels as class indices: what they are, and whether they lie in range where that is known."""

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


def class_indices(labels: np.ndarray, shape: tuple[int, ...], owner: str) -> np.ndarray:
    """Returns labels, whose values are known, as class indices.

    Args:
        labels: Class indices (batch, ...) or (batch, ..., 1), or one-hot (batch, ..., classes).
        shape: Of the logits, (batch, ..., classes).
        owner: Who needs them, for the message.

    Returns:
        (batch, ...), int.

    Raises:
        ValueError: If they have another shape, or one is out of range.
    """
    if labels.shape == shape:
        return labels.argmax(axis=-1)
    if labels.shape == (*shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != shape[:-1]:
        raise ValueError(
            f"{owner} needs labels that are classes {shape[:-1]} or one-hot {shape}, as the "
            f"logits are. Received: labels of shape {labels.shape}"
        )
    require_in_range(labels, shape[-1], owner)
    return labels.astype("int64")


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
