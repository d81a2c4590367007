"""A student that is linear in rows of the unit matrix, so that its classes are known by hand."""

import keras
import numpy as np

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
