"""Running means of the values that a distiller logs."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
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

    def update(self, values: Mapping[str, Any], examples: Any) -> None:
        """Adds values to the means of their names.

        Args:
            values: By name: one for each example, or one that is the mean of all of them.
            examples: The number of examples, of this replica.
        """
        for name, value in values.items():
            scalar = len(value.shape) == 0
            self._means[name].update_state(ops.repeat(value, examples) if scalar else value)
