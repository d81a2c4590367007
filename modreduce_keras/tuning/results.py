"""Results of a search: one row for each trial, as a table and as pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modreduce_keras import escapes, whole_files
from modreduce_keras.tuning import pictures, reports

FIRST, LAST = ("trial", "status", "score", "epoch"), "error"
OWN = "tuner/"  # KerasTuner's own hyperparameters, of which only the epochs are of interest
EPOCHS = "tuner/epochs"


class Results:
    """The results of a search's trials: the best first, failed trials last.

    Attributes:
        rows: A dict for each trial: `"trial"`, `"status"`, `"score"` (the objective), `"epoch"`
            (the best one, counted from 1), each hyperparameter by its name, and `"error"`.
        columns: The names of all columns.
        objective: Name of the objective.
        direction: `"max"` or `"min"`.

    Example:
        >>> rows = [{"trial": "0", "status": "COMPLETED", "score": 0.5, "temperature": 4.0}]
        >>> print(Results(rows, ["temperature"], "val_accuracy", "max").to_markdown())
        | trial | status | val_accuracy | epoch | temperature | error |
        |---|---|---|---|---|---|
        | 0 | COMPLETED | 0.5 |  | 4 |  |
        <BLANKLINE>
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        hyperparameters: Sequence[str],
        objective: str,
        direction: str,
        logarithmic: Sequence[str] = (),
    ) -> None:
        self.hyperparameters = list(hyperparameters)
        self.columns = [*FIRST, *self.hyperparameters, LAST]
        self.objective, self.direction = objective, direction
        self.logarithmic = set(logarithmic)
        sign = -1.0 if direction == "max" else 1.0
        self.rows = [{name: row.get(name) for name in self.columns} for row in rows]
        self.rows.sort(key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0)))

    def to_csv(self, path: str | Path | None = None) -> str:
        """Returns the table as CSV with all digits, and writes it to a file if one is named.

        Text that a spreadsheet would run as a formula begins with an apostrophe.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(escapes.csv, self.columns))
        for row in self.rows:
            writer.writerow([escapes.csv(row[name]) for name in self.columns])
        return _written(text.getvalue(), path)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """Returns the table as Markdown with four digits, and writes it if a file is named."""
        names = [self.objective if name == "score" else name for name in self.columns]
        lines = [list(map(escapes.markdown, names)), ["---"] * len(names)]
        lines += [[_cell(row[name]) for name in self.columns] for row in self.rows]
        text = "".join(
            "|" + "|".join(f" {cell} " if cell != "---" else cell for cell in line) + "|\n"
            for line in lines
        )
        return _written(text, path)

    def plot_pair(self, x: str, y: str, path: str | Path) -> Path:
        """Saves a picture of the objective over two hyperparameters.

        Args:
            x: Name of a hyperparameter, across.
            y: Name of another, upwards.
            path: File to write, PNG.

        Returns:
            The file.

        Raises:
            ValueError: If a hyperparameter is unknown, or no trial has been completed.
        """
        for name in (x, y):
            if name not in self.hyperparameters:
                raise ValueError(
                    f"Hyperparameters must be among {self.hyperparameters}. Received: {name!r}"
                )
        return pictures.save(pictures.pair(self, x, y), path)

    def plot_parallel(self, path: str | Path) -> Path:
        """Saves a picture of all trials as lines across their hyperparameters to the objective.

        Args:
            path: File to write, PNG.

        Returns:
            The file.

        Raises:
            ValueError: If no trial has been completed.
        """
        return pictures.save(pictures.parallel(self), path)

    def completed(self) -> list[dict[str, Any]]:
        """Returns the rows of the trials that were completed.

        Raises:
            ValueError: If there are none.
        """
        found = [row for row in self.rows if row["score"] is not None]
        if not found:
            raise ValueError(f"No trial of the search has been completed, of {len(self.rows)}")
        return found


def of_trials(oracle: Any) -> Results:
    """Returns the results of KerasTuner's oracle."""
    rows, names = [], []
    for trial_id in sorted(oracle.trials):
        trial = oracle.trials[trial_id]
        values = {name: value for name, value in trial.hyperparameters.values.items()}
        row = {"trial": trial_id, "status": trial.status}
        if trial.status == reports.COMPLETED:
            epoch = trial.best_step + 1 + values.get("tuner/initial_epoch", 0)
            row |= {"score": float(trial.score), "epoch": epoch}
        elif reports.failed(trial):
            row["error"] = reports.failure(trial).reason
        values = {n: v for n, v in values.items() if not n.startswith(OWN) or n == EPOCHS}
        names += [name for name in values if name not in names]
        rows.append(row | values)
    space = oracle.get_space().space
    logarithmic = [one.name for one in space if getattr(one, "sampling", None) == "log"]
    return Results(rows, names, oracle.objective.name, oracle.objective.direction, logarithmic)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return escapes.markdown(str(value))


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_files.naming(Path(path)):
            Path(path).write_text(text, encoding="utf-8", newline="\n")
    return text
