"""The table of students that learn without data, from rows."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common


def data_free(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line for each kind of images: the accuracy of its students, and their time.

    Of several settings, the last one that was run counts.
    """
    settings = ("updates", "batch", "inverted", "teacher")
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in settings)]
    runs = {(row["method"], row["seed"]): row for row in rows}
    lines = []
    for method in dict.fromkeys(method for method, _ in runs):
        own = [row for (name, _), row in runs.items() if name == method]
        accuracy = common.mean_and_deviation([100 * row["accuracy"] for row in own])
        seconds = statistics.mean(row["seconds"] for row in own)
        lines.append([method, accuracy, f"{seconds:.0f}", len(own)])
    columns = ["student learns on", "test accuracy, %", "seconds", "seeds"]
    told = [f"The teacher: {100 * rows[-1]['teacher']:.1f} %.", ""]
    table = common.table(columns, lines)
    return "\n".join([*told, *table, "", *common.origins(runs.values(), *settings)])
