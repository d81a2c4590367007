"""A student that is linear in rows of the unit matrix, so that its classes are known by hand."""

import keras
import numpy as np
import pytest

SWAPPED = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]

# Rows of the unit matrix: the student says 0, 1, 2, 2, and the one of SWAPPED 1, 0, 2, 2.
DATA = np.eye(3, dtype="float32")[[0, 1, 2, 2]] * np.array([[1], [1], [1], [4]], "float32")
LABELS = np.array([0, 1, 2, 0])


def linear(kernel, shape=(3,), name="student", bias=None):
    """Returns x ↦ x W + b."""
    inputs = keras.Input(shape, name="features")
    kernel = np.array(kernel, "float32")
    head = keras.layers.Dense(kernel.shape[1], name="logits")
    model = keras.Model(inputs, head(inputs), name=name)
    head.set_weights([kernel, np.zeros(kernel.shape[1]) if bias is None else np.array(bias)])
    return model


every_damage = pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"no model" * 200,
        lambda content: bytes(255 - byte for byte in content),
    ],
    ids=["empty", "half", "text", "inverted"],
)
"""What may happen to the content of a file."""
other_architectures = pytest.mark.parametrize(
    ("kernel", "shape", "match"),
    [
        (np.ones((5, 3)), (5,), r"'features' is float32 of shape \(-1, 5\).*float32.*\(None, 3\)"),
        (np.ones((3, 4)), (3,), r"returns float32 of shape \(4, 4\).*\(4, 3\)"),
    ],
    ids=["size", "classes"],
)
"""Kernels of students that are not the one above, and what is said of their files."""
