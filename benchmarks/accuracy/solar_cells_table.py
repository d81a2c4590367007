"""The table of the students on photographs of solar cells."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks import common

SETTINGS = ("size", "labels", "teacher_epochs", "epochs", "batch", "rate")


def solar_cells(rows: list[Mapping[str, Any]]) -> str:
    """Returns a line for the teacher and for each method: means and deviations over the seeds.

    Of several settings, the last one that was run counts.
    """
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in SETTINGS)]
    columns = [
        "learns from",
        "parameters",
        "test accuracy, %",
        "mean over the classes, %",
        "accuracy of the int8 file, %",
        "its agreement with Keras, %",
        "KiB",
        "milliseconds",
        "seeds",
    ]
    last = rows[-1]
    of_teacher = [f"{last['teacher_parameters']:,}", f"{100 * last['teacher']:.1f}"]
    of_teacher.append(f"{100 * last['teacher_balanced']:.1f}")
    lines = [["all labels (the teacher)", *of_teacher, *[""] * 4, "1"]]
    for method in dict.fromkeys(row["method"] for row in rows):
        lines.append(_line(method, [row for row in rows if row["method"] == method]))
    gains = [
        100 * (one["accuracy"] - other["accuracy"])
        for one in rows
        for other in rows
        if (one["method"], other["method"]) == ("kd", "labels") and one["seed"] == other["seed"]
    ]
    told = common.mean_and_deviation(gains, signed=True)
    said = f"With KD less without it, seed by seed: {told} points of test accuracy."
    return "\n".join(
        [*common.table(columns, lines), "", said, "", *common.origins(rows, *SETTINGS)]
    )


def _line(method: str, own: list[Mapping[str, Any]]) -> list[str]:
    what = f"{own[-1]['labels']} labels" + (" and the teacher (KD)" if method == "kd" else "")
    shares = ("accuracy", "balanced_accuracy", "int8_accuracy", "int8_agreement")
    cells = [common.mean_and_deviation([100 * row[name] for row in own]) for name in shares]
    size, time = (statistics.mean(row[name] for row in own) for name in ("bytes", "milliseconds"))
    parameters = f"{own[-1]['parameters']:,}"
    return [what, parameters, *cells, f"{size / 1024:.0f}", f"{time:.1f}", str(len(own))]
