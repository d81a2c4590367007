"""Reports of failed trials: when a trial fails, and at the end for the whole search."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

COMPLETED, RUNNING, INVALID, FAILED = "COMPLETED", "RUNNING", "INVALID", "FAILED"


class Failure(NamedTuple):
    """A trial that failed.

    Attributes:
        trial: Its number, as KerasTuner writes it.
        values: Its hyperparameters.
        reason: The last line of the error, or what else was wrong.
    """

    trial: str
    values: dict[str, Any]
    reason: str

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.values.items())
        return f"trial {self.trial} ({values}): {self.reason}"


class SearchError(RuntimeError):
    """Raised when a search has ended and some of its trials failed.

    Attributes:
        failures: The failed trials, each with `trial`, `values` and `reason`.
    """

    def __init__(self, message: str, failures: Sequence[Failure] = ()) -> None:
        super().__init__(message)
        self.failures = list(failures)


def failed(trial: Any) -> bool:
    """Returns whether a trial that has ended was not completed."""
    return trial.status not in (COMPLETED, RUNNING)


def failure(trial: Any, message: str | None = None) -> Failure:
    """Returns what is reported of a failed trial.

    Args:
        trial: KerasTuner's trial.
        message: Its traceback, if the trial does not have it.
    """
    lines = (message or trial.message or "").strip().splitlines()
    nan = isinstance(trial.score, float) and math.isnan(trial.score)
    unknown = "the objective was not a number" if nan else "ended without an error message"
    return Failure(trial.trial_id, dict(trial.hyperparameters.values), _last(lines) or unknown)


def _last(lines: list[str]) -> str:
    """Returns the error of a traceback: what follows its last indented line."""
    indented = [number for number, line in enumerate(lines) if line.startswith(" ")]
    return " ".join(lines[indented[-1] + 1 :] if indented else lines)


def too_many_failed(oracle: Any) -> bool:
    """Returns whether the trials that ended last failed, as many as may fail in a row."""
    last = reversed(oracle.end_order)
    in_a_row = itertools.takewhile(lambda key: oracle.trials[key].status == FAILED, last)
    return sum(1 for _ in in_a_row) >= oracle.max_consecutive_failed_trials


def summary(failures: Sequence[Failure], number: int) -> str:
    """Returns the report of a search.

    Args:
        failures: The failed trials.
        number: How many trials there were.
    """
    return f"{len(failures)} of {number} trials of the search failed:\n" + "\n".join(
        f"- {one}" for one in failures
    )


def place(tuner: Any, trial_id: str) -> Path:
    """Returns the file in a trial's folder that holds its traceback."""
    return Path(tuner.get_trial_dir(trial_id), "error.txt")


def recall(tuner: Any) -> None:
    """Gives failed trials of workers the tracebacks that their workers have left."""
    for trial_id, trial in tuner.oracle.trials.items():
        if failed(trial) and not trial.message and place(tuner, trial_id).is_file():
            trial.message = place(tuner, trial_id).read_text(encoding="utf-8")


class Reporting:
    """A mixin for tuners that reports a failed trial at once, which KerasTuner does not."""

    oracle: Any

    def on_trial_end(self, trial: Any) -> None:
        """Ends a trial, and reports it if it failed."""
        if trial.message:  # what a worker says to the chief is without it
            place(self, trial.trial_id).write_text(
                trial.message, encoding="utf-8", errors="backslashreplace"
            )
        try:
            super().on_trial_end(trial)  # type: ignore[misc]
        finally:
            ended = self.oracle.get_trial(trial.trial_id)
            if failed(ended):
                again = " (it is tried again)" if ended.status == INVALID else ""
                logging.error("Failed%s: %s", again, failure(ended, trial.message))
