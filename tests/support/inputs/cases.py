"""Inputs for the conformance tests: what registered losses and adapters are called with."""

import keras
import numpy as np

BATCH = 6


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    """Raises unless two results are equal up to rounding in float32."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def normal(shape, batch, random):
    """Returns one tensor, or for a list of shapes a list of tensors, as a loss compares them."""
    if all(isinstance(size, int) for size in shape):
        return random.normal(size=(batch, *shape)).astype("float32")
    return [normal(one, batch, random) for one in shape]


def with_labels(loss, teacher):
    """Returns the teacher's side as a loss takes it: with labels where it needs them."""
    first = keras.tree.flatten(teacher)[0]
    # One label for each position that has logits of its own.
    labels = np.arange(first.shape[0]) % 2
    if loss.label_numbers:
        labels = np.cos(np.arange(np.prod(first.shape), dtype="float32")).reshape(first.shape)
    if loss.label_maps:
        labels = (labels.reshape(-1, *[1] * (first.ndim - 2)) + np.arange(2)) % 2
        labels = np.broadcast_to(labels, (*first.shape[:-2], 2))
    if not loss.needs_labels:
        return teacher
    return {"teacher": teacher, "labels": labels} if loss.needs_teacher else labels


def changed(function, side):
    """Applies a function to all tensors but the labels."""
    if isinstance(side, dict):
        return {**side, "teacher": changed(function, side["teacher"])}
    if "int" in str(getattr(side, "dtype", "")):
        return side
    return keras.tree.map_structure(function, side)


def degenerate(kind):
    """Returns a function of an array whose samples coincide or vanish, by its name."""
    return {
        "duplicated rows": lambda t: np.repeat(t[::2], 2, axis=0),
        "all rows equal": lambda t: np.repeat(t[:1], len(t), axis=0),
        "all zero": np.zeros_like,
        "one row zero": lambda t: np.concatenate([np.zeros_like(t[:1]), t[1:]]),
    }[kind]


DEGENERATE = ["duplicated rows", "all rows equal", "all zero", "one row zero"]
