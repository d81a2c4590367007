"""Weights of classes: what `class_weight` of `fit` may be for a distiller."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.arguments import is_number
from modreduce_keras.labels import is_one_hot, require_rows


def require_class_weight(weights: Any, output: Any, labels: Any) -> None:
    """Raises unless every example gets one weight of its class, or no weights came.

    Args:
        weights: What was given as `class_weight`.
        output: The symbolic output of a student, or a dict of them.
        labels: The labels, or `None` where they are not known beforehand.

    Raises:
        TypeError: If they are not a dict.
        ValueError: If a key is not a class, a value is not a weight, there are several outputs or
            positions, or a label is not one class.
    """
    if weights is None:
        return
    several = keras.tree.is_nested(output)
    if several or len(output.shape) > 2:
        which = "by output, where there are several" if several else "one for each position"
        raise ValueError(
            "class_weight is for one label per example. Weigh the labels y of positions, or of "
            f"several outputs, by sample_weight ({which}): sample_weight=np.array([1.0, 5.0, "
            f"...])[y], with a number for each class. Received: class_weight={weights}"
        )
    if not isinstance(weights, Mapping):
        raise TypeError(
            "class_weight must be a dict from class to weight, such as {0: 1.0, 1: 2.5}. Weights "
            "that balance the classes are dict(enumerate(len(y) / (counts.size * counts))) with "
            f"counts = np.bincount(y). Received: class_weight={weights!r}"
        )
    classes = max(output.shape[-1], 2)  # one logit is of two classes
    wrong = {
        key: weight
        for key, weight in weights.items()
        if not (isinstance(key, (int, np.integer)) and 0 <= key < classes)
        or not (is_number(weight) and weight >= 0)
    }
    if wrong:
        raise ValueError(
            f"class_weight must have integers from 0 to {classes - 1} as keys, and weights that "
            f"are not negative. Received: {wrong}"
        )
    _require_one_class(labels)


def _require_one_class(labels: Any) -> None:
    """Raises if rows of labels are not one-hot, where Keras would use the largest entry."""
    if len(getattr(labels, "shape", ())) != 2 or labels.shape[-1] == 1:
        return
    needed = (
        "is for labels that are one class each. Weigh mixed, smoothed or several-hot rows by "
        "sample_weight: sample_weight=y @ np.array([1.0, 5.0, ...]), with a number for each column."
    )
    require_rows(np.asarray(labels), "class_weight", needed, is_one_hot)
