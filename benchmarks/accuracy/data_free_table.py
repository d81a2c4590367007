"""The table of students that learn without data, from rows."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common


def data_free(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line for each kind of images: the accuracy of its students, and their time.

    Of several settings, the last one that was run counts.
    """
    settings = ("updates", "batch", "inverted")
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in settings)]
    runs = {(row["method"], row["seed"]): row for row in rows}
    lines = []
    for method in dict.fromkeys(method for method, _ in runs):
        own = [row for (one, _), row in runs.items() if one == method]
        accuracy = common.mean_and_deviation([100 * row["accuracy"] for row in own])
        seconds = statistics.mean(row["seconds"] for row in own)
        name = method.replace("_statistics", ", statistics=10")
        lines.append([name, accuracy, f"{seconds:.0f}", len(own)])
    columns = ["student learns on", "test accuracy, %", "seconds", "seeds"]
    # Each run trains the teacher anew, and on the same machine it becomes the same.
    teachers = sorted({f"{100 * row['teacher']:.1f}" for row in runs.values()})
    ends = dict.fromkeys((teachers[0], teachers[-1]))
    told = [f"The teacher: {' to '.join(ends)} %.", ""]
    table = common.table(columns, lines)
    return "\n".join([*told, *table, "", *common.origins(runs.values(), *settings)])
