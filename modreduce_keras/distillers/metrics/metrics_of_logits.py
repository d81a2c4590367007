"""Metrics of logits: what `compile(metrics=...)` means where the students give logits.

Keras' metrics take probabilities unless they say otherwise. Names stand for what is right for the
kind of output that the compiled loss tells; metric objects that take probabilities are given them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.keras_internals import (
    direction_of,
    mask_of,
    set_direction,
    set_mask,
    takes_logits,
    wrapped_by,
)
from modreduce_keras.ops import float32
from modreduce_keras.output_kind import (
    CLASSES,
    EMBEDDING,
    LABELS,
    LOGIT,
    REGRESSION,
    UNKNOWN,
    output_kinds,
)

_metrics = keras.metrics
_FROM_LOGITS = (
    _metrics.AUC,
    _metrics.BinaryCrossentropy,
    _metrics.CategoricalCrossentropy,
    _metrics.SparseCategoricalCrossentropy,
)
_THRESHOLDED = (
    _metrics.BinaryAccuracy,
    _metrics.BinaryIoU,
    _metrics.FBetaScore,
    _metrics.FalseNegatives,
    _metrics.FalsePositives,
    _metrics.Precision,
    _metrics.PrecisionAtRecall,
    _metrics.Recall,
    _metrics.RecallAtPrecision,
    _metrics.SensitivityAtSpecificity,
    _metrics.SpecificityAtSensitivity,
    _metrics.TrueNegatives,
    _metrics.TruePositives,
)
_ELEMENTWISE = (_metrics.AUC, _metrics.CategoricalCrossentropy, *_THRESHOLDED)
_FUNCTIONS = (
    _metrics.binary_accuracy,
    _metrics.binary_crossentropy,
    _metrics.binary_focal_crossentropy,
    _metrics.categorical_crossentropy,
    _metrics.categorical_focal_crossentropy,
    _metrics.kl_divergence,
    _metrics.sparse_categorical_crossentropy,
)
_OF_KERAS = {
    base for one in vars(_metrics).values() if isinstance(one, type) for base in one.__mro__
}


class OfProbabilities(keras.metrics.Metric):
    """Gives a metric the probabilities of logits; it keeps the metric's name.

    Args:
        metric: Takes probabilities.
        activation: `keras.ops.sigmoid` or `keras.ops.softmax`.
        name: Name in the logs.
    """

    def __init__(self, metric: keras.metrics.Metric, activation: Callable, name: str):
        super().__init__(name=name, dtype=metric.dtype)
        self.metric, self.activation = metric, activation
        set_direction(self, direction_of(metric))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch of logits."""
        self._require_one_hot(y_true, y_pred)
        probabilities = self.activation(float32(y_pred))
        mask = mask_of(y_pred)
        if mask is not None:
            set_mask(probabilities, mask)
        self.metric.update_state(y_true, probabilities, sample_weight=sample_weight)

    def _require_one_hot(self, y_true: Any, y_pred: Any) -> None:
        """Raises if a metric that compares each output with a label of its own gets class indices.

        Keras' own error is about `segment_ids`.
        """
        labels, outputs = tuple(ops.shape(y_true)), tuple(ops.shape(y_pred))
        indices = len(labels) < len(outputs) or labels[-1:] == (1,)
        if indices and outputs[-1] != 1 and isinstance(self.metric, _ELEMENTWISE):
            raise ValueError(
                f"The metric {self.name!r} compares each class with a label of its own, so the "
                "labels must be one-hot: dataset.map(lambda x, y: (x, keras.ops.one_hot(y, "
                f"{outputs[-1]}))) and CategoricalCrossentropy(from_logits=True) as the loss; or "
                f"take metrics=['accuracy']. Received: labels of shape {labels} for outputs of "
                f"shape {outputs}"
            )

    def reset_state(self) -> None:
        """Forgets what came."""
        self.metric.reset_state()

    def result(self) -> Any:
        """Returns the metric's result."""
        return self.metric.result()


def accuracy_above(y_true: Any, y_pred: Any, threshold: float) -> Any:
    """Returns the share of labels, each yes or no, on whose side of a threshold an output lies.

    Args:
        y_true: Labels, (batch, ..., units) or (batch, ...): 0 or 1, or -1 or 1.
        y_pred: Outputs, (batch, ..., units).
        threshold: 0 for logits, 0.5 for probabilities.

    Returns:
        (batch, ...).
    """
    y_true, y_pred = float32(ops.convert_to_tensor(y_true)), ops.convert_to_tensor(y_pred)
    if len(y_true.shape) == len(y_pred.shape) - 1:
        y_true = ops.expand_dims(y_true, -1)
    return ops.mean(float32(ops.equal(y_true > 0.5, y_pred > threshold)), axis=-1)


def for_outputs(given: Any, losses: Any, outputs: Any, is_logits: Callable[[Any], bool]) -> Any:
    """Returns what Keras' `compile` takes, for metrics that may want probabilities.

    Args:
        given: What `compile(metrics=...)` takes: a list for one output (or a dict of lists, of one
            output each), or by the name of the output where the model returns a dict.
        losses: The compiled loss, or a dict of them.
        outputs: The symbolic output, or a dict of them.
        is_logits: Says of the name of an output, `None` of the only one, whether it gives logits.

    Raises:
        ValueError: If a metric is right neither for logits nor for probabilities, or needs
            probabilities and the loss does not tell which.
    """
    if given is None or (keras.tree.is_nested(outputs) and not isinstance(outputs, Mapping)):
        return given
    kinds, is_logits = output_kinds(losses, outputs), functools.cache(is_logits)

    def adapted(several: Any, output: Any) -> Any:
        if several is None:
            return None
        units = (outputs if output is None else outputs[output]).shape[-1]
        kind = LOGIT if kinds[output] == UNKNOWN and units == 1 else kinds[output]
        return [
            _adapted(metric, kind, lambda: is_logits(output))
            for metric in keras.tree.flatten(several)
        ]

    if not isinstance(outputs, Mapping):
        if isinstance(given, Mapping):
            return {name: adapted(several, None) for name, several in given.items()}
        return adapted(given, None)
    if isinstance(given, (list, tuple)) and len(given) == len(outputs):
        given = dict(zip(sorted(outputs), given, strict=True))  # as Keras orders them
    if not isinstance(given, Mapping) or set(given) - set(outputs):
        return given  # Keras says what is wrong
    return {name: adapted(several, name) for name, several in given.items()}


def _adapted(given: Any, kind: str, is_logits: Callable[[], bool]) -> Any:
    name, metric = None, given
    if isinstance(given, str):
        if given.lower() in ("accuracy", "acc"):
            return _accuracy(given, kind, is_logits)
        name, metric = given, metric_named(given)
        if isinstance(metric, keras.metrics.FBetaScore) and kind in (LOGIT, LABELS):
            metric = type(metric)(threshold=0.5)  # else of the largest alone
    if kind in (REGRESSION, EMBEDDING):
        return given
    if any(metric is function for function in _FUNCTIONS):
        metric = keras.metrics.MeanMetricWrapper(metric, name=metric.__name__)
    if not isinstance(metric, keras.metrics.Metric) or not _updates_as_keras(metric):
        return given
    _require_no_numbers(metric, kind)
    if not _takes_probabilities(metric) or not is_logits():
        return given
    if kind == UNKNOWN:
        raise ValueError(
            f"The metric {metric.name!r} takes probabilities, and the students return logits. "
            "The compiled loss does not tell whether their classes are exclusive: "
            "compile one of Keras' cross-entropies with from_logits=True, or give a metric that "
            "takes logits, such as keras.metrics.AUC(from_logits=True) or "
            f"keras.metrics.BinaryAccuracy(threshold=0). Received: metric={given!r}"
        )
    activation = ops.softmax if kind == CLASSES else ops.sigmoid
    return OfProbabilities(metric, activation, name or metric.name)


def metric_named(name: str) -> Any:
    """Returns Keras' metric of a name, or says that there is none."""
    try:
        return keras.metrics.get(name)
    except ValueError as error:
        raise ValueError(
            "metrics must be metrics of Keras or their names, such as 'accuracy'. "
            f"Received: {name!r}"
        ) from error


def _accuracy(name: str, kind: str, is_logits: Callable[[], bool]) -> Any:
    if kind not in (LOGIT, LABELS):
        return name  # Keras tells by the labels whether they are indices
    threshold = 0.0 if is_logits() else 0.5
    metric = keras.metrics.MeanMetricWrapper(accuracy_above, name=name, threshold=threshold)
    set_direction(metric, "up")
    return metric


def _updates_as_keras(metric: keras.metrics.Metric) -> bool:
    """Returns whether a metric is one of Keras', or takes what that takes."""
    owner = next(one for one in type(metric).__mro__ if "update_state" in vars(one))
    return owner in _OF_KERAS


def _require_no_numbers(metric: keras.metrics.Metric, kind: str) -> None:
    """Raises if a metric takes class indices for what the students put out."""
    remedy = None
    if isinstance(metric, keras.metrics.Accuracy):
        remedy = "metrics=['accuracy']"
    elif isinstance(metric, keras.metrics.IoU) and not isinstance(metric, keras.metrics.BinaryIoU):
        wants_indices = metric.sparse_y_pred
        binary = kind in (LOGIT, LABELS)
        of_classes = f"keras.metrics.{type(metric).__name__}(..., sparse_y_pred=False)"
        remedy = "keras.metrics.BinaryIoU()" if binary else of_classes
        remedy = remedy if wants_indices else None
    if remedy is not None:
        raise ValueError(
            f"The metric {metric.name!r} compares the labels with predicted class indices, and the "
            f"students give a number for each class: use {remedy}. Received: metric={metric!r}"
        )


def _takes_probabilities(metric: keras.metrics.Metric) -> bool:
    if isinstance(metric, _FROM_LOGITS):
        return not takes_logits(metric)
    if isinstance(metric, _THRESHOLDED):
        thresholds = getattr(metric, "thresholds", None)
        thresholds = [metric.threshold] if thresholds is None else thresholds
        return any(one is not None and 0.0 < one < 1.0 for one in thresholds)
    if isinstance(metric, keras.metrics.KLDivergence):
        return True
    function, arguments = wrapped_by(metric)  # by Keras, or the user
    if any(function is one for one in _FUNCTIONS):
        return not arguments.get("from_logits") and 0.0 < arguments.get("threshold", 0.5) < 1.0
    return False
