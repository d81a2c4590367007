"""FoundStudents: the results of a search for a student, its Pareto front and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from modreduce_keras import escapes
from modreduce_keras.arguments import require_choice
from modreduce_keras.tuning import pictures
from modreduce_keras.tuning.candidates import COSTS, Candidate, pareto


class FoundStudents:
    """The students of a family that were measured, and the results of those within the budget.

    Attributes:
        rows: A dict for each student: its hyperparameters by name, its costs (`"kib"`,
            `"milliseconds"`, `"multiply_adds"`; `None` if it was rejected before), `"score"` (the
            objective; `None` if it was rejected, its training failed, or Hyperband has not drawn
            it), `"epochs"` that it was trained for, and `"refused"`, why it was not trained. The
            best come first.
        student: The best student, with the weights of its best epoch.
        objective: Name of the objective.
        direction: `"max"` or `"min"`.
        budget: The budget of the search.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        scores: Mapping[int, tuple[float, int]],
        student: keras.Model,
        *,
        objective: str,
        direction: str,
        budget: Mapping[str, float],
    ):
        self.student, self.budget = student, dict(budget)
        self.objective, self.direction = objective, direction
        self._sign = 1.0 if direction == "max" else -1.0
        names = list(dict.fromkeys(name for one in candidates for name in one.values))
        self.columns = [*names, *COSTS, "score", "epochs", "refused"]
        self.rows: list[dict[str, Any]] = []
        for index, one in enumerate(candidates):
            score, epochs = scores.get(index, (None, None))
            values = {name: one.values.get(name) for name in names}
            learnt = {"score": score, "epochs": epochs, "refused": one.over}
            self.rows.append({**values, **one.costs, **learnt})
        self.rows.sort(key=lambda row: (row["score"] is None, -self._sign * (row["score"] or 0.0)))

    def completed(self) -> list[dict[str, Any]]:
        """Returns the rows of the students that were trained, the best first."""
        return [row for row in self.rows if row["score"] is not None]

    def pareto(self, cost: str | None = None) -> list[dict[str, Any]]:
        """Returns the Pareto front: no other row is better in the objective and no worse in cost.

        Args:
            cost: `"kib"`, `"milliseconds"` or `"multiply_adds"`. Defaults to `None`: all that were
                measured.
        """
        if cost is not None:
            require_choice("cost", cost, COSTS)
        rows = self.completed()
        known = [name for name in COSTS if all(row[name] is not None for row in rows)]
        return pareto(rows, known if cost is None else [cost], self._sign)

    def to_markdown(self) -> str:
        """Returns a table of all students."""
        titles = [self.objective if name == "score" else name for name in self.columns]
        lines = [titles, ["---"] * len(titles)]
        lines += [[_cell(row[name]) for name in self.columns] for row in self.rows]
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)

    def plot(self, path: str | Path, cost: str = "kib") -> Path:
        """Saves a picture of the objective over a cost, with the Pareto front, as PNG.

        Args:
            path: The file.
            cost: `"kib"`, `"milliseconds"` or `"multiply_adds"`. Defaults to `"kib"`.
        """
        require_choice("cost", cost, COSTS)
        return pictures.save(pictures.front(self, cost), path)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escapes.markdown(str(value))
