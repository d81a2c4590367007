"""Compiled metrics for several students: a copy for each, logged as `STUDENT/METRIC`.

Keras computes metrics for each output of a model and joins the names of output and metric with
"_". The outputs are called "STUDENT/" here, so that the logs can be told from other names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras


def for_each_student(metrics: Any, names: Sequence[str]) -> Any:
    """Returns what Keras' `compile` takes, so that each student gets metrics of its own.

    Args:
        metrics: `None`, a list for all, or a dict from student to list.
        names: The students' names.

    Raises:
        ValueError: If a key of the dict is not a student.
    """
    if metrics is None:
        return None
    if not isinstance(metrics, Mapping):
        metrics = dict.fromkeys(names, metrics)
    unknown = sorted(set(metrics) - set(names))
    if unknown:
        raise ValueError(
            f"metrics must be a list, or a dict with keys among {list(names)}. Received: {unknown}"
        )
    return {
        f"{name}/": [_copy(metric) for metric in keras.tree.flatten(several)]
        for name, several in metrics.items()
    }


def _copy(metric: Any) -> Any:
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric


def as_outputs(labels: Any, by_student: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns (labels, tensors) under the names that the outputs have in Keras.

    The outputs of one student that has several keep their own names.
    """
    first = next(iter(by_student.values()))
    if isinstance(first, Mapping):
        return labels, first
    outputs = {f"{name}/": tensor for name, tensor in by_student.items()}
    return dict.fromkeys(outputs, labels), outputs


def log_names(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns Keras' results under the names that they have in the logs."""
    return {name.replace("/_", "/"): value for name, value in results.items()}
