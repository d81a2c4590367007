"""Tests of the kind of an output: by every way of naming a loss, and by the labels' values."""

import functools

import keras
import numpy as np
import pytest

from modreduce_keras.output_kind import (
    CLASSES,
    EMBEDDING,
    LABELS,
    LOGIT,
    REGRESSION,
    UNKNOWN,
    output_kind,
    output_kinds,
)

SHAPES = {"one": (None, 1), "five": (None, 5), "map": (None, 4, 4, 3), "binary_map": (None, 4, 1)}


@pytest.mark.parametrize(
    ("loss", "kinds"),
    [
        (keras.losses.BinaryCrossentropy(from_logits=True), (LOGIT, LABELS, LABELS, LOGIT)),
        ("binary_crossentropy", (LOGIT, LABELS, LABELS, LOGIT)),
        ("binary_focal_crossentropy", (LOGIT, LABELS, LABELS, LOGIT)),
        (keras.losses.hinge, (LOGIT, LABELS, LABELS, LOGIT)),
        (
            functools.partial(keras.losses.binary_crossentropy, from_logits=True),
            (LOGIT, LABELS, LABELS, LOGIT),
        ),
        (keras.losses.SparseCategoricalCrossentropy(), (CLASSES,) * 4),
        ("categorical_crossentropy", (CLASSES,) * 4),
        (keras.losses.kl_divergence, (CLASSES,) * 4),
        ("mse", (REGRESSION,) * 4),
        (keras.losses.Huber(), (REGRESSION,) * 4),
        ("cosine_similarity", (EMBEDDING,) * 4),
        (lambda y_true, y_pred: y_pred - y_true, (UNKNOWN,) * 4),
        (None, (UNKNOWN,) * 4),
    ],
)
def test_the_kind_by_the_loss(loss, kinds):
    assert tuple(output_kind(loss, shape) for shape in SHAPES.values()) == kinds


def test_a_subclass_is_of_its_parents_kind_and_a_loss_of_ones_own_of_none():
    class Weighted(keras.losses.BinaryCrossentropy):
        pass

    class Own(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return y_pred

    assert output_kind(Weighted(), (None, 5)) == LABELS
    assert output_kind(Own(), (None, 5)) == UNKNOWN


ONE_HOT, SEVERAL_HOT = np.eye(3)[[0, 2]], np.array([[1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("labels", "shape", "kind"),
    [
        (np.array([0, 2]), (2, 3), CLASSES),
        (np.array([[0], [2]]), (2, 3), CLASSES),
        (np.zeros((2, 4), int), (2, 4, 3), CLASSES),
        (ONE_HOT, (2, 3), CLASSES),
        (0.9 * ONE_HOT + 0.1 / 3, (2, 3), CLASSES),
        (SEVERAL_HOT, (2, 3), LABELS),
        (SEVERAL_HOT.astype(bool), (2, 3), LABELS),
        (np.array([[1.5, -2.0, 0.3], [0.0, 1.0, 2.0]]), (2, 3), REGRESSION),
        (np.array([0.0, 1.0]), (2, 1), LOGIT),
        (np.array([[-1], [1]]), (2, 1), LOGIT),
        (np.array([[0.3], [1.0]]), (2, 1), REGRESSION),
        (np.array([0.3, 1.0]), (2, 3), UNKNOWN),
        (np.array(["a", "b"]), (2, 3), UNKNOWN),
    ],
)
def test_the_kind_by_the_labels(labels, shape, kind):
    assert output_kind(None, shape, labels) == kind
    # What the loss says counts first.
    assert output_kind("mse", shape, labels) == REGRESSION


def test_the_kinds_of_several_outputs():
    outputs = {"digit": keras.KerasTensor((None, 10)), "tags": keras.KerasTensor((None, 4))}
    losses = {"tags": "binary_crossentropy"}
    assert output_kinds(losses, outputs) == {"digit": UNKNOWN, "tags": LABELS}
    assert output_kinds("mse", outputs["digit"]) == {None: REGRESSION}
