"""Labelled metrics: metrics that leave out what the compiled loss's `ignore_class` leaves out."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.distillers.metrics.metrics_of_logits import OfProbabilities, metric_named
from modreduce_keras.distillers.step.batch import without_last_axis_of_one
from modreduce_keras.keras_internals import direction_of, set_direction
from modreduce_keras.ops import along_positions, float32


class OfLabelled(keras.metrics.Metric):
    """Gives a metric that is a mean the weight 0 where there is no label; it keeps the name.

    Args:
        metric: A mean of values per sample or position.
        ignored: The label of samples, or positions, that have none.
    """

    def __init__(self, metric: keras.metrics.Metric, ignored: int):
        super().__init__(name=metric.name, dtype=metric.dtype)
        self.metric, self.ignored = metric, ignored
        set_direction(self, direction_of(metric))

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch."""
        labels = ops.convert_to_tensor(y_true)
        labels = ops.squeeze(labels, -1) if len(labels.shape) == len(y_pred.shape) else labels
        is_labelled = ops.not_equal(labels, self.ignored)
        weight = float32(is_labelled)
        if sample_weight is not None:
            given = without_last_axis_of_one(float32(ops.convert_to_tensor(sample_weight)))
            weight = weight * along_positions(given, weight)
        # A cross-entropy of a label that is not a class is NaN, whatever its weight.
        labels = ops.where(is_labelled, labels, ops.zeros_like(labels))
        self.metric.update_state(labels, y_pred, sample_weight=weight)

    def reset_state(self) -> None:
        """Forgets what came."""
        self.metric.reset_state()

    def result(self) -> Any:
        """Returns the metric's result."""
        return self.metric.result()


def of_labelled(metrics: Any, losses: Any) -> Any:
    """Returns metrics for labels of which the compiled loss ignores one.

    Accuracies, cross-entropies, functions and whatever else is a mean over the samples leave out
    those without a label. Other metrics get the labels as they are.

    Args:
        metrics: What `metrics_of_logits.for_outputs` returned.
        losses: The compiled loss, or a dict of them by output.
    """
    if isinstance(metrics, Mapping):
        by_output = losses if isinstance(losses, Mapping) else dict.fromkeys(metrics, losses)
        return {name: of_labelled(own, by_output.get(name)) for name, own in metrics.items()}
    ignored = getattr(losses, "ignore_class", None)
    if ignored is None or not isinstance(losses, keras.losses.SparseCategoricalCrossentropy):
        return metrics
    made = [_as_metric(one) for one in keras.tree.flatten(metrics) if one is not None]
    return [OfLabelled(one, ignored) if _is_mean(one) else one for one in made]


def _as_metric(given: Any) -> Any:
    """Returns a metric object for what Keras would make one of."""
    metric: Any = given
    if isinstance(given, str):
        # Labels that a loss ignores are class indices.
        is_accuracy = given.lower() in ("accuracy", "acc")
        function = keras.metrics.sparse_categorical_accuracy
        metric = function if is_accuracy else metric_named(given)
    if isinstance(metric, keras.metrics.Metric):
        return metric
    name = given if isinstance(given, str) else getattr(metric, "__name__", None)
    return keras.metrics.MeanMetricWrapper(metric, name=name)


def _is_mean(metric: Callable) -> bool:
    metric = metric.metric if isinstance(metric, OfProbabilities) else metric
    return isinstance(metric, keras.metrics.MeanMetricWrapper)
