"""The table of the default of `mr.Distiller`: what it gains on every data set that was measured.

The default is the labels with weight 1 and DIST with weight 1; KD where there are two classes, or
outputs at positions, and binary KD for one logit or several independent labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import common
from benchmarks.cifar100.evidence import EPOCHS, of_length
from benchmarks.cifar100.tables import ended, mean_and_error

Row = Mapping[str, Any]

FILES = ("cifar100_middle", "cifar100_small", "fashion_singles", "tasks")
FASHION = ("epochs", "labels", "teacher_epochs", "learning_rate", "online_weight")


class Data(NamedTuple):
    """A data set: what the table calls it, its rows, and the methods' names in them."""

    name: str
    file: str
    default: str
    kd: str
    task: str | None = None


ON = (
    Data("CIFAR-100, 45,000 images, 30 epochs", "cifar100_middle", "dist", "kd_even"),
    Data("CIFAR-100, 10,000 images, 20 epochs", "cifar100_small", "dist", "kd_even"),
    Data("Fashion-MNIST, 1,000 images", "fashion_singles", "dist", "kd"),
    Data(
        "digits as a table, 100 labels, boosting as the teacher", "tasks", "dist", "kd", "tabular"
    ),
    Data("nodes of a graph", "tasks", "dist", "kd", "graph"),
    Data("text, two classes (the default is KD)", "tasks", "kd", "kd", "text"),
    Data('several labels (with `"binary_kd"`)', "tasks", "kd", "kd", "many_labels"),
    Data("no labels, accuracy of a linear probe", "tasks", "dist", "kd", "unlabelled"),
    Data("pixels, mean IoU (the default is KD)", "tasks", "kd", "kd", "segmentation"),
    Data(
        "characters, fall of the perplexity (the default is KD)",
        "tasks",
        "kd_4",
        "kd_4",
        "language_model",
    ),
)


def evidence_default(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each data set: what the default and KD gain, with standard errors."""
    columns = ["data", "gain of the default", "seeds", "better than the labels with"]
    columns += ["gain of KD", "default over KD"]
    lines = []
    for data in ON:
        runs = _runs(rows[data.file], data)
        gains = _gains(runs, data.default, "plain")
        if not gains:
            continue
        better = f"{sum(one > 0 for one in gains)} of {len(gains)}"
        cells = [data.name, mean_and_error(gains), str(len(gains)), better]
        other = [_gains(runs, data.kd, "plain"), _gains(runs, data.default, data.kd)]
        is_kd = data.default == data.kd
        lines.append([*cells, *(["", ""] if is_kd else map(mean_and_error, other))])
    return "\n".join(common.table(columns, lines))


TABLES = {"evidence_default": (FILES, evidence_default)}


def _runs(rows: Sequence[Row], data: Data) -> dict[tuple[str, int], float]:
    """Returns the figures by method and seed, such that more is better."""
    if data.file in EPOCHS:
        runs = of_length(rows, EPOCHS[data.file])
        return {key: 100 * row["test"] for key, row in runs.items() if ended([row])}
    if data.file == "fashion_singles":
        rows = [row for row in rows if all(row[name] == rows[-1][name] for name in FASHION)]
        return {(row["method"], row["seed"]): 100 * row["test"] for row in rows}
    rows = [row for row in rows if row["task"] == data.task]
    names = {"alone": "plain"}
    return {
        (names.get(row["method"], row["method"]), row["seed"]): row["test"]
        * (1 if row["rises"] else -1)
        for row in rows
    }


def _gains(runs: Mapping[tuple[str, int], float], method: str, over: str) -> list[float]:
    return [
        figure - runs[over, seed]
        for (name, seed), figure in sorted(runs.items())
        if name == method and (over, seed) in runs
    ]
