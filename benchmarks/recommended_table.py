"""The table that recommends methods: what each gains on two data sets, and what a step costs.

Gains are those of the rows of `cifar100_small` and `fashion_singles`, costs those of `method_cost`.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import common
from benchmarks.cifar100.tables import ended, runs_of

Row = Mapping[str, Any]

FILES = ("cifar100_small", "fashion_singles", "method_cost")
SETTINGS = ("epochs", "labels", "teacher_epochs", "learning_rate", "online_weight")


class Method(NamedTuple):
    """A method's names in the files; `None` where it has no rows.

    `three/kd` stands for KD with equal weights: three students trained independently by it.
    """

    cifar100: str
    fashion: str | None
    cost: str


METHODS = {
    '`"dist"`, and `"hint"` at `"stage2"`': Method(*["dist and hint"] * 3),
    '`"dist"`': Method("dist", "dist", "dist"),
    '`"kd"` and `"shake"`': Method("shake", "shake", "shake"),
    '`"kd"`': Method("three/kd", "kd", "kd"),
    '`"hint"` at `"stage2"`': Method("hint", None, "hint"),
    '`"dkd"`': Method("dkd", "dkd", "dkd"),
    '`"kd"`, labels 0.1, teacher 0.9': Method("kd", None, "kd"),
    '`"crd"`': Method("crd", None, "crd"),
}


def recommended(rows: Mapping[str, list[Row]]) -> str:
    """Returns a line for each method: points above the labels alone, and the cost of a step."""
    cifar100 = {(method, seed): row for (_, method, seed), row in _cifar100(rows).items()}
    fashion = {(row["method"], row["seed"]): row for row in _last_setting(rows["fashion_singles"])}
    costs = {row["method"]: row for row in common.latest(rows["method_cost"], "method")}
    columns = ["knowledge", "CIFAR-100, points", "Fashion-MNIST, points", "time of a step"]
    lines = [
        [name, gain(cifar100, method.cifar100), gain(fashion, method.fashion), cost(costs, method)]
        for name, method in METHODS.items()
    ]
    return "\n".join(common.table(columns, lines))


def gain(runs: Mapping[tuple[str, int], Row], method: str | None) -> str:
    """Returns the points above plain training from the same seed: mean and deviation."""
    gains = [
        100 * (test_of(row) - runs["plain", seed]["test"])
        for (name, seed), row in runs.items()
        if name == method and ("plain", seed) in runs
    ]
    return common.mean_and_deviation(gains, signed=True)


def test_of(row: Row) -> float:
    """Returns the test accuracy of one student: of several, their mean."""
    students: Mapping[str, float] | None = row.get("students_test")
    return statistics.mean(students.values()) if students else row["test"]


def cost(costs: Mapping[str, Row], method: Method) -> str:
    """Returns the time of a step as a multiple of KD's."""
    ratio = costs[method.cost].get("ratio_median", 1.0) if method.cost in costs else None
    return "1.00 x" if method.cost == "kd" else f"{ratio:.2f} x" if ratio else ""


def _cifar100(rows: Mapping[str, list[Row]]) -> Mapping[tuple[str, str, int], Row]:
    runs = runs_of(rows["cifar100_small"]) if rows["cifar100_small"] else {}
    return {run: row for run, row in runs.items() if ended([row])}


def _last_setting(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if all(row[name] == rows[-1][name] for name in SETTINGS)]
