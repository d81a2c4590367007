"""The objective: the value in the logs that a search maximizes or minimizes."""

from typing import Any

import keras
import keras_tuner

from modreduce_keras.arguments import require_choice

MORE_IS_BETTER = ("accuracy", "agreement", "auc", "precision", "recall", "score")
LESS_IS_BETTER = ("loss", "error", "divergence", "entropy", "mse", "mae")


def resolve(objective: Any, direction: str | None) -> keras_tuner.Objective:
    """Returns the objective of a search.

    Args:
        objective: A name in the logs, or a `keras_tuner.Objective`.
        direction: `"max"`, `"min"`, or `None` to tell from the name.

    Raises:
        TypeError: If the objective is something else.
        ValueError: If the direction is not one of those, or cannot be told from the name.
    """
    if type(objective) is keras_tuner.Objective and direction is None:
        objective, direction = objective.name, objective.direction
    if not isinstance(objective, str) or not objective:
        raise TypeError(
            "objective must be one name in the logs, such as 'val_accuracy' or "
            "'val_response/accuracy', or a keras_tuner.Objective (which has its direction). "
            f"Received: objective={objective!r}, direction={direction!r}"
        )
    if direction is None:
        direction = _direction(objective)
    require_choice("direction", direction, ("max", "min"))
    return keras_tuner.Objective(objective, direction)


def _direction(name: str) -> str:
    metric = name.removeprefix("val_").rpartition("/")[2]
    if metric.endswith(MORE_IS_BETTER):
        return "max"
    if metric == "ce" or metric.endswith(LESS_IS_BETTER):
        return "min"
    raise ValueError(
        "Whether more or less of the objective is better cannot be told from its name: say "
        f"direction='max' or direction='min'. Received: objective={name!r}"
    )


class RequireObjective(keras.callbacks.Callback):
    """Ends a search at once if the logs of an epoch lack the objective.

    KerasTuner would count every trial as failed, or keep the weights of another epoch.

    Args:
        name: Name of the objective.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the logs of an epoch."""
        if self.name not in (logs or {}):
            raise keras_tuner.errors.FatalValueError(
                "The objective must be in the logs of every epoch (a 'val_' value needs "
                f"validation_data= and validation_freq=1), one of {sorted(logs or {})}. "
                f"Received: objective={self.name!r}, epoch {epoch + 1}"
            )
