"""The table of tasks, from rows."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import common

ALONE, KD = "alone", "kd"
SETTINGS = ("epochs", "batch", "rate", "examples", "teacher_epochs", "teacher_examples")
NAMES = {
    "text": "text",
    "many_labels": "several labels",
    "language_model": "language model",
    "segmentation": "segmentation",
    "tabular": "table",
    "retrieval": "retrieval",
    "graph": "graph",
    "unlabelled": "no labels",
}

Row = Mapping[str, Any]


def tasks(rows: Sequence[Row]) -> str:
    """Returns a line for each task and method, and where a method did not help with every seed.

    Of several settings of a task, the last one that was run counts. Gains are those of one seed.
    """
    names = [name for name in NAMES if any(row["task"] == name for row in rows)]
    by_task = {name: _runs([row for row in rows if row["task"] == name]) for name in names}
    columns = ["task", "student learns from", "figure", "gain", "its teacher"]
    columns += ["seconds", "MiB", "parameters", "seeds"]
    lines = [
        _cells(name, method, runs)
        for name, runs in by_task.items()
        for method in dict.fromkeys(method for method, _ in runs)
    ]
    latest = [row for runs in by_task.values() for row in runs.values()]
    # One command measures all tasks, or each by itself.
    seeds = sorted({row["seed"] for row in latest})
    alike = [
        {
            **row,
            "command": row["command"].partition(" --tasks=")[0],
            "commit": None,
            "seeds": f"{seeds[0]} to {seeds[-1]}",
        }
        for row in latest
    ]
    said = [*_verdicts(by_task), "", *common.origins(alike, "seeds")]
    return "\n".join([*common.table(columns, lines), "", *said])


def _runs(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """Returns the rows of a task by method and seed."""
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in SETTINGS)]
    return {(row["method"], row["seed"]): row for row in rows}


def _gains(runs: Mapping[tuple[str, int], Row], method: str, over: str) -> list[float]:
    """Returns how much better a method is than another one, for each seed that both have."""
    return [
        (row["test"] - runs[over, seed]["test"]) * (1 if row["rises"] else -1)
        for (name, seed), row in runs.items()
        if name == method and (over, seed) in runs
    ]


def _cells(task: str, method: str, runs: Mapping[tuple[str, int], Row]) -> list[str]:
    own = [row for (name, _), row in runs.items() if name == method]
    digits = 1 if own[-1]["rises"] else 3
    gain = ""
    if method != ALONE:
        gains = _gains(runs, method, ALONE)
        gain = common.mean_and_deviation(gains, digits, signed=True)
    seconds, peak = (statistics.mean(row[name] for row in own) for name in ("seconds", "peak_mib"))
    of_teacher = own[-1]["teacher_parameters"]
    parameters = f"{own[-1]['parameters']:,}" + (f" of {of_teacher:,}" if of_teacher else "")
    return [
        f"{NAMES[task]}: {own[-1]['measure']}" if method == ALONE else "",
        _learns_by(own[-1]),
        common.mean_and_deviation([row["test"] for row in own], digits),
        gain,
        common.mean_and_deviation([row["teacher_test"] for row in own], digits),
        f"{seconds:.0f}",
        f"{peak:.1f}",
        parameters,
        str(len(own)),
    ]


def _learns_by(row: Row) -> str:
    """Returns what the student learns from; old rows have numbers without the leading zero."""
    return re.sub(r"(?<!\S)\.(?=\d)", "0.", row["learns_by"])


def _verdicts(by_task: Mapping[str, Mapping[tuple[str, int], Row]]) -> list[str]:
    """Returns where methods gained with every seed, and where they did not."""
    alone, own = [], []
    for task, runs in by_task.items():
        for method in dict.fromkeys(method for method, _ in runs):
            told = f"{NAMES[task]}, {_learns_by(runs[next(k for k in runs if k[0] == method)])}"
            if method != ALONE:
                alone.append((told, _gains(runs, method, ALONE)))
            if method not in (ALONE, KD):
                own.append((told, _gains(runs, method, KD)))
    return [
        f"**Not better than the student alone with every seed:** {_failing(alone)}.",
        "",
        f"**Not better than KD with every seed:** {_failing(own)}.",
    ]


def _failing(cases: Iterable[tuple[str, Sequence[float]]]) -> str:
    return "; ".join(told for told, gains in cases if not all(gain > 0 for gain in gains)) or "none"
