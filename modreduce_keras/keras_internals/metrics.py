"""Metrics: which way they get better, and what they are made of."""

from collections.abc import Callable
from typing import Any

import keras


def direction_of(metric: keras.metrics.Metric) -> str | None:
    """Returns `"up"` or `"down"`, as a metric gets better; `None` where it does not say.

    Relies on `Metric._direction`, by which callbacks resolve `mode="auto"`.
    """
    return getattr(metric, "_direction", None)


def set_direction(metric: keras.metrics.Metric, direction: str | None) -> None:
    """Tells Keras' callbacks which way a metric gets better.

    Relies on `Metric._direction`, which a metric lacks if it does not say.
    """
    if direction is not None:
        metric._direction = direction


def takes_logits(metric: keras.metrics.Metric) -> bool:
    """Returns whether a metric with the argument `from_logits` was given `True`.

    Relies on `AUC._from_logits`; of other metrics the attribute is public.
    """
    return bool(getattr(metric, "from_logits", getattr(metric, "_from_logits", False)))


def wrapped_by(metric: keras.metrics.Metric) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """Returns the function that a metric takes the mean of, and its arguments; else `None, {}`.

    Relies on `MeanMetricWrapper._fn` and `_fn_kwargs`.
    """
    return getattr(metric, "_fn", None), getattr(metric, "_fn_kwargs", {})
