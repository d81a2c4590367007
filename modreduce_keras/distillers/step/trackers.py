"""Running means of the values that a distiller logs."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops


class Trackers:
    """One mean for each name, over all examples since the last reset.

    A plain object on purpose: a distiller that is compiled again must forget the old means, and
    Keras never forgets a metric that a model once held.

    Args:
        names: Names in the logs.
    """

    def __init__(self, names: Iterable[str]):
        self._means = {name: keras.metrics.Mean(name=name) for name in names}
        self.names = frozenset(self._means)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means, in the order of their names' first appearance."""
        return list(self._means.values())

    def empty(self) -> frozenset[str]:
        """Returns the names of means that have had no values since the last reset."""
        counts = {name: ops.convert_to_numpy(mean.count) for name, mean in self._means.items()}
        return frozenset(name for name, count in counts.items() if not count)

    def update(self, values: Mapping[str, Any], examples: Any, finite_only: bool = False) -> None:
        """Adds values to the means of their names.

        Args:
            values: By name: one for each example, or one that is the mean of all of them.
            examples: The number of examples, of this replica.
            finite_only: Whether to leave out values that are not finite.
        """
        for name, value in values.items():
            scalar = len(value.shape) == 0
            value = ops.repeat(value, examples) if scalar else value
            update(self._means[name], value, finite_only)


def result_of(mean: keras.metrics.Mean, finite_only: bool = False) -> Any:
    """Returns a mean, a scalar; NaN if values that were not finite were left out, and all were."""
    value = mean.result()
    return ops.where(ops.equal(mean.count, 0), np.nan, value) if finite_only else value


def update(mean: keras.metrics.Mean, values: Any, finite_only: bool = False) -> None:
    """Adds values, one for each example, to a mean."""
    if not finite_only:
        mean.update_state(values)
        return
    finite = ops.isfinite(values)
    mean.update_state(ops.where(finite, values, 0.0), ops.cast(finite, "float32"))
