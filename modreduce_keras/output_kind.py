"""The kind of an output, such as classes or a regression, which decides how it is compared."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from modreduce_keras.labels import is_distribution, is_yes_or_no

CLASSES = "classes"
"""Logits of classes that exclude one another."""
LOGIT = "logit"
"""One logit, of yes or no."""
LABELS = "labels"
"""Logits of several independent labels, each yes or no."""
REGRESSION = "regression"
"""Plain numbers."""
EMBEDDING = "embedding"
"""A vector of which only the direction counts."""
UNKNOWN = "unknown"

KINDS = (CLASSES, LOGIT, LABELS, REGRESSION, EMBEDDING)

_losses = keras.losses
_OF_CLASSES = (
    (
        _losses.SparseCategoricalCrossentropy,
        _losses.CategoricalCrossentropy,
        _losses.CategoricalFocalCrossentropy,
        _losses.CategoricalGeneralizedCrossEntropy,
        _losses.CategoricalHinge,
        _losses.KLDivergence,
    ),
    (
        _losses.sparse_categorical_crossentropy,
        _losses.categorical_crossentropy,
        _losses.categorical_focal_crossentropy,
        _losses.categorical_generalized_cross_entropy,
        _losses.categorical_hinge,
        _losses.kl_divergence,
    ),
)
_OF_LABELS = (
    (
        _losses.BinaryCrossentropy,
        _losses.BinaryFocalCrossentropy,
        _losses.Hinge,
        _losses.SquaredHinge,
    ),
    (
        _losses.binary_crossentropy,
        _losses.binary_focal_crossentropy,
        _losses.hinge,
        _losses.squared_hinge,
    ),
)
_OF_NUMBERS = (
    (
        _losses.MeanSquaredError,
        _losses.MeanAbsoluteError,
        _losses.MeanAbsolutePercentageError,
        _losses.MeanSquaredLogarithmicError,
        _losses.Huber,
        _losses.LogCosh,
        _losses.Poisson,
    ),
    (
        _losses.mean_squared_error,
        _losses.mean_absolute_error,
        _losses.mean_absolute_percentage_error,
        _losses.mean_squared_logarithmic_error,
        _losses.huber,
        _losses.log_cosh,
        _losses.poisson,
    ),
)
_OF_DIRECTIONS = (
    (_losses.CosineSimilarity, _losses.Circle),
    (_losses.cosine_similarity, _losses.circle),
)


def output_kind(loss: Any, shape: Sequence[int | None], labels: Any = None) -> str:
    """Returns the kind of an output, by its compiled loss or else by its labels.

    Args:
        loss: The loss of this output, as `compile` takes it: an object, a function or a name; or
            `None`. A loss of the user's own says nothing.
        shape: Of the output, (batch, ..., units).
        labels: Labels of some samples, or `None`. They count only where the loss says nothing.

    Returns:
        `"classes"`, `"logit"` (one unit), `"labels"` (several), `"regression"`, `"embedding"`, or
        `"unknown"`.

    Example:
        >>> output_kind("binary_crossentropy", (None, 5))
        'labels'
        >>> output_kind(None, (2, 3), np.array([0, 2]))
        'classes'
    """
    kind = _of_loss(loss, tuple(shape))
    return _of_values(np.asarray(labels), tuple(shape)) if kind == UNKNOWN else kind


def output_kinds(losses: Any, outputs: Any) -> dict[str | None, str]:
    """Returns the kind of every output of a model by its compiled losses, by the output's name.

    Args:
        losses: What `compile(loss=...)` takes: one loss, or a dict of losses by output.
        outputs: The symbolic output, or a dict of them. An output without a loss is `"unknown"`.

    Returns:
        The kinds by name; of a model with one output under the name `None`.
    """
    if not isinstance(outputs, Mapping):
        return {None: output_kind(losses, outputs.shape)}
    by_name = losses if isinstance(losses, Mapping) else {}
    return {name: output_kind(by_name.get(name), one.shape) for name, one in outputs.items()}


def _of_loss(loss: Any, shape: tuple[int | None, ...]) -> str:
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    while isinstance(loss, functools.partial):
        loss = loss.func
    function = getattr(loss, "fn", loss)  # of a function that Keras has wrapped

    def is_one_of(losses: Any) -> Any:
        classes, functions = losses
        return isinstance(loss, classes) or any(function is one for one in functions)

    if is_one_of(_OF_LABELS):
        return LOGIT if len(shape) < 2 or shape[-1] == 1 else LABELS
    for kind, losses in (
        (CLASSES, _OF_CLASSES),
        (REGRESSION, _OF_NUMBERS),
        (EMBEDDING, _OF_DIRECTIONS),
    ):
        if is_one_of(losses):
            return kind
    return UNKNOWN


def _of_values(labels: np.ndarray, shape: tuple[int | None, ...]) -> str:
    if labels.dtype.kind not in "iufb" or not labels.size:
        return UNKNOWN
    units = shape[-1] if len(shape) > 1 else 1
    whole = bool((labels == np.floor(labels)).all())
    if units == 1:
        return LOGIT if is_yes_or_no(labels) else REGRESSION
    if labels.ndim == len(shape) and labels.shape[-1] == units:
        if is_distribution(labels):
            return CLASSES
        return LABELS if is_yes_or_no(labels) else REGRESSION
    indices = labels.ndim == len(shape) - 1 or labels.shape[-1] == 1
    return CLASSES if indices and whole else UNKNOWN
