"""Selection: which of several students is the best, by validation."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from modreduce_keras.distillers.backend import tensorflow as backend

_LESS_IS_BETTER = ("loss", "error", "divergence", "entropy", "mse", "mae")


class Selection(keras.layers.Layer):
    """Keeps the students' last validation scores; a layer, so that they are saved and restored.

    Args:
        names: The students' names.
        criterion: Validation metric to compare by, without student and `val_`. Defaults to the
            accuracy if it is logged, else to `default`.
        mode: `"max"`, `"min"`, or `None` to tell from the criterion's name.
    """

    def __init__(self, names: list[str], criterion: str | None, mode: str | None):
        super().__init__(name="selection", dtype="float32")
        if mode not in (None, "max", "min"):
            raise ValueError(
                f"criterion_mode must be 'max', 'min' or None. Received: criterion_mode={mode!r}"
            )
        if criterion is not None and not (isinstance(criterion, str) and criterion):
            raise ValueError(
                "criterion must be the name of a validation metric, such as 'accuracy', or None. "
                f"Received: criterion={criterion!r}"
            )
        self.names, self.criterion, self.mode = names, criterion, mode
        self.default: str | None = None
        # Set by the distiller: terms of the loss, of which less is better.
        self.terms: frozenset[str] = frozenset()
        # Signed so that more is better.
        self.scores = self.add_weight(
            shape=(len(names),),
            initializer=keras.initializers.Constant(math.nan),
            trainable=False,
            name="scores",
        )
        self.built = True

    @property
    def decided(self) -> bool:
        """Whether a validation has run."""
        return not np.isnan(self._present_scores()).all()

    def _present_scores(self) -> np.ndarray:
        # Prediction asks while it is being traced, where values are out of reach.
        with backend.outside_of_graphs():
            return keras.ops.convert_to_numpy(self.scores)

    def best(self) -> str:
        """Returns the name of the student with the highest score.

        Raises:
            ValueError: If no validation has run yet.
        """
        scores = self._present_scores()
        if np.isnan(scores).all():
            raise ValueError(
                "Which student is the best is not known before a validation: fit with "
                "validation_data= (and criterion=, where neither a loss nor the accuracy is "
                f"compiled), or choose one of distiller.students: {self.names}"
            )
        return self.names[int(np.nanargmax(scores))]

    def note(self, logs: Mapping[str, Any]) -> None:
        """Takes the scores from the logs of an epoch, if a validation was among them."""
        found = self.found(logs)
        if found:
            self.scores.assign(list(found.values()))

    def found(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Returns each student's score, more is better; `{}` where the logs have none."""
        measured = {
            name.removeprefix(f"val_{self.names[0]}/")
            for name in logs
            if name.startswith(f"val_{self.names[0]}/")
        }
        if not measured:
            return {}
        criterion = self.criterion or ("accuracy" if "accuracy" in measured else self.default)
        if criterion is None:  # without labels, nothing tells
            return {}
        if criterion not in measured:
            raise ValueError(
                f"criterion must be a validation metric of the students, one of "
                f"{sorted(measured)}. Received: criterion={criterion!r}"
            )
        mode = self.mode or ("min" if is_less_better(criterion, self.terms) else "max")
        sign = 1.0 if mode == "max" else -1.0
        return {n: sign * float(logs[f"val_{n}/{criterion}"]) for n in self.names}


def is_less_better(criterion: str, terms: Collection[str]) -> bool:
    """Returns whether less of a measure is better, by its name and those of a loss's terms."""
    return criterion in terms or criterion.endswith(_LESS_IS_BETTER)


class BestStudent(keras.callbacks.Callback):
    """Notes the students' validation scores at the end of each epoch.

    Args:
        selection: Where to note them.
    """

    def __init__(self, selection: Selection):
        super().__init__()
        self.selection = selection

    def on_epoch_end(self, epoch: Any, logs: Any = None) -> None:
        """Notes the scores of this epoch's validation, if there was one."""
        self.selection.note(logs or {})
