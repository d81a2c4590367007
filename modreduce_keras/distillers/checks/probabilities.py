"""Checks that labels beside a cross-entropy are probabilities."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

_CLASSES = (
    keras.losses.BinaryCrossentropy,
    keras.losses.BinaryFocalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
)
_FUNCTIONS = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
)


def require_probabilities(loss: Any, labels: Any, outputs: Any, owner: str) -> None:
    """Raises if arrays of labels have values that a compiled cross-entropy is not made for.

    Keras computes a number for any: beside 255 for a foreground it is large and negative. Losses of
    the user's own may ignore some values, and so may a sample weight of 0: those are not checked.

    Args:
        loss: What was compiled: a loss, its name, or a dict by output.
        labels: An array, or a dict by output. Labels of another shape than the output are wrong in
            another way, which is told elsewhere.
        outputs: The symbolic output, or a dict of them.
        owner: What the labels are called in the message.

    Raises:
        ValueError: If a value is below 0 or above 1.
    """
    if isinstance(loss, Mapping):
        for output, own in loss.items():
            if all(isinstance(each, Mapping) and output in each for each in (labels, outputs)):
                named = f"{owner}[{output!r}]"
                require_probabilities(own, labels[output], outputs[output], named)
        return
    made = keras.losses.get(loss) if isinstance(loss, str) else loss
    if type(made) not in _CLASSES and made not in _FUNCTIONS:
        return
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iuf" or not labels.size:
        return
    if isinstance(outputs, Mapping):
        return
    if labels.ndim != len(outputs.shape) and outputs.shape[-1] != 1:
        return
    least, most = labels.min(), labels.max()
    if least < 0 or most > 1:
        found = np.unique(labels)
        shown = found[:6].tolist() if len(found) <= 6 else f"values from {least} to {most}"
        name = getattr(made, "name", None) or made.__name__
        raise ValueError(
            f"{owner} must be from 0 to 1 beside the loss {name!r}: masks of 0 and 255 take "
            "y / 255, and labels of -1 and 1 (y + 1) / 2. Samples without labels take a "
            f"sample_weight of 0. Received: {shown}"
        )
