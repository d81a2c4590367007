"""Compiled metrics for several students: a copy for each, logged as `STUDENT/METRIC`.

Keras computes metrics for each output of a model and joins the names of output and metric with
"_". The outputs are called "STUDENT/" here, so that the logs can be told from other names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

_SETTINGS = (bool, int, float, str, type(None), np.number)


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
    shared = not isinstance(metrics, Mapping)
    if shared:
        metrics = dict.fromkeys(names, metrics)
    unknown = sorted(set(metrics) - set(names))
    if unknown:
        raise ValueError(
            f"metrics must be a list, or a dict with keys among {list(names)}. Received: {unknown}"
        )
    seen: set[int] = set()

    def own(metric: Any) -> Any:
        if shared or id(metric) in seen:
            return _copy(metric)
        seen.add(id(metric))
        return metric

    return {
        f"{name}/": [own(metric) for metric in keras.tree.flatten(several)]
        for name, several in metrics.items()
    }


def _copy(metric: Any) -> Any:
    """Returns a metric like the given one; a name or a function is its own copy.

    Raises:
        ValueError: If its config does not tell all that it was made with.
    """
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    kind = type(metric)
    try:
        copy = kind.from_config(metric.get_config())
        theirs, ours = _settings(metric), _settings(copy)
        lost = [name for name in theirs if ours.get(name) != theirs[name]]
        wrong = f"a copy that differs in {lost[0]!r}" if lost else None
    except (TypeError, ValueError) as error:
        wrong = f"a copy that fails with: {error}"
    if wrong:
        raise ValueError(
            f"Each student gets a copy of the metric {metric.name!r} by its get_config, which has "
            f"to return every argument of {kind.__name__}; or give each an object of its own: "
            f"metrics={{STUDENT: [{kind.__name__}(...)], ...}}. Received: {wrong}"
        )
    return copy


def _settings(metric: Any) -> dict[str, Any]:
    """Returns the attributes of a metric that are plain numbers, names and arrays of them."""
    settings = {}
    for name, value in vars(metric).items():
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if all(isinstance(leaf, _SETTINGS) for leaf in keras.tree.flatten([value])):
            settings[name] = value
    return settings


def as_outputs(by_student: Mapping[str, Any], logits: Mapping[str, Any]) -> Any:
    """Returns labels, weights or logits under the names that the outputs have in Keras.

    The outputs of one student that has several keep their own names.
    """
    if isinstance(next(iter(logits.values())), Mapping):
        return next(iter(by_student.values()))
    return {f"{name}/": values for name, values in by_student.items()}


def log_names(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns Keras' results under the names that they have in the logs."""
    return {name.replace("/_", "/"): value for name, value in results.items()}
