"""Tables from the rows of `train.py`: methods by what they give and cost."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import common
from benchmarks.cifar100.names import ORDER
from benchmarks.cifar100.published import PUBLISHED, Published

Row = Mapping[str, Any]

SETTINGS = ("epochs", "samples", "augmentations", "batch", "rate", "validation_images")
MIDDLE_EPOCHS = 30
"""The length of the middle protocol; `evidence.py` compares others."""
STUDENTS = {"plain": "labels", "kd": "KD", "semckd": "SemCKD", "crd": "CRD"}


def runs_of(rows: list[Row]) -> dict[tuple[str, str, int], Row]:
    """Returns the rows of the setting that was run last, by pair, method and seed."""
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in SETTINGS)]
    return {(row["pair"], row["method"], row["seed"]): row for row in rows}


def by_method(runs: Mapping[tuple[str, str, int], Row], pair: str) -> dict[str, list[Row]]:
    """Returns a pair's rows by method, in the order of the methods and of the seeds."""
    found = {method: [] for method in ORDER}
    for (own, method, _), row in sorted(runs.items(), key=lambda run: run[0]):
        if own == pair:
            found[method].append(row)
    return {method: rows for method, rows in found.items() if rows}


def cifar100_small(rows: list[Row]) -> str:
    """Returns a line for each method and pair: its seeds' mean and standard deviation, its cost.

    The best of the seeds is what single students give for the cost of as many, by validation.
    Steps of students and runs of the teacher are counted as a training without a cache has them:
    steps as multiples of one student's, runs as passes over the training images.
    """
    runs = runs_of(rows)
    columns = [
        "method",
        "deployed student, %",
        "more than labels alone",
        "best of the seeds, %",
        "mean of its students, %",
        "own ensemble, %",
        "mean of probabilities, %",
        "steps of a student",
        "runs of the teacher",
        "seeds",
    ]
    lines, students = [], []
    for pair in dict.fromkeys(pair for pair, _, _ in runs):
        methods = by_method(runs, pair)
        for method, own in methods.items():
            lines.append(_cells(pair, method, own, runs))
        students += _by_student(methods)
    parts = [*students, *_teachers(runs.values()), *_origins(runs.values())]
    return "\n".join([*common.table(columns, lines), "", *parts])


def _cells(pair: str, method: str, own: Sequence[Row], runs: Mapping[Any, Row]) -> list[str]:
    gains = _gains(pair, own, runs) if method != "plain" else []
    return [
        method,
        _deployed(own),
        common.mean_and_deviation(gains, signed=True),
        percents(_best_of_seeds(own)),
        percents([mean_of_students(row) for row in own]),
        percents([row["ensemble_test"] for row in own]),
        percents([row["softmax_ensemble_test"] for row in own]),
        *_cost(own),
        str(len(own)),
    ]


def _gains(pair: str, rows: Sequence[Row], runs: Mapping[Any, Row]) -> list[float]:
    """Returns by how many points the runs are above the labels alone, where a seed has both."""
    plain = [(row, runs.get((pair, "plain", row["seed"]))) for row in ended(rows)]
    return [100 * (row["test"] - other["test"]) for row, other in plain if other]


def _cost(rows: Sequence[Row]) -> list[str]:
    """Returns steps as multiples of one student's, and runs of the teacher over the images."""
    steps = rows[0]["epochs"] * -(-rows[0]["samples"] // rows[0]["batch"])
    forwards = rows[0]["teacher_forwards"] / rows[0]["samples"]
    return [f"{rows[0]['student_steps'] / steps:.1f}", f"{forwards:.0f}"]


def _best_of_seeds(rows: Sequence[Row]) -> list[float]:
    single = [row for row in ended(rows) if row["students_test"] is None]
    return [max(single, key=lambda row: row["validation"])["test"]] if len(single) > 1 else []


def cifar100_middle(rows: list[Row]) -> str:
    """Returns a line for each method: accuracies, and what it gains over the labels alone.

    A gain is that over the student of the same seed trained on the labels alone, on the same
    images in the same order, from equal weights: its mean over the seeds and the standard error.
    """
    runs = runs_of([row for row in rows if row["epochs"] == MIDDLE_EPOCHS])
    columns = [
        "method",
        "test accuracy, %",
        "more than labels alone (± standard error)",
        "seeds with a gain",
        "best of the seeds, %",
        "mean of its students, %",
        "own ensemble, %",
        "steps of a student",
        "runs of the teacher",
        "seeds",
    ]
    lines = []
    for pair in dict.fromkeys(pair for pair, _, _ in runs):
        for method, own in by_method(runs, pair).items():
            lines.append(_paired_cells(pair, method, own, runs))
    parts = [*_teachers(runs.values()), *_origins(runs.values())]
    return "\n".join([*common.table(columns, lines), "", *parts])


def _paired_cells(pair: str, method: str, own: Sequence[Row], runs: Mapping[Any, Row]) -> list[str]:
    gains = _gains(pair, own, runs) if method != "plain" else []
    return [
        method,
        _deployed(own),
        mean_and_error(gains),
        f"{sum(gain > 0 for gain in gains)} of {len(gains)}" if gains else "",
        percents(_best_of_seeds(own)),
        percents([mean_of_students(row) for row in own]),
        percents([row["ensemble_test"] for row in own]),
        *_cost(own),
        str(len(own)),
    ]


def mean_and_error(values: Sequence[float]) -> str:
    """Returns a mean and its standard error as text; of one value itself, of none nothing."""
    if len(values) < 2:
        return common.mean_and_deviation(values, signed=True)
    return f"{statistics.mean(values):+z.1f} ± {standard_error(values):.1f}"


def standard_error(values: Sequence[float]) -> float:
    """Returns the standard error of a mean; 0 of one value, which does not tell it."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _by_student(methods: Mapping[str, list[Row]]) -> list[str]:
    """Returns a table of what each kind of knowledge has made of its student."""
    kinds = {
        method: [row["students_test"] for row in ended(rows)]
        for method, rows in methods.items()
        if method.startswith("modreduce/") or method.endswith("kinds")
    }
    # Students that learn from the same knowledge are numbered.
    kinds = {
        method: rows
        for method, rows in kinds.items()
        if not any(name.startswith("student_") for row in rows for name in row)
    }
    names = list(dict.fromkeys(name for rows in kinds.values() for row in rows for name in row))
    if not names:
        return []
    lines = [
        [method, *(percents([row[name] for row in rows]) for name in names)]
        for method, rows in kinds.items()
    ]
    return [*common.table(["student by kind of knowledge, %", *names], lines), ""]


def mean_of_students(row: Row) -> float | None:
    """Returns the mean accuracy of the students of a training with several, or `None`."""
    return row["students_test"] and statistics.mean(row["students_test"].values())


def ended(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows of trainings that did not diverge."""
    return [row for row in rows if row["test"] is not None]


def _deployed(rows: Sequence[Row], digits: int = 1) -> str:
    """Returns the mean accuracy of the deployed students, and how many trainings diverged."""
    lost = len(rows) - len(ended(rows))
    told = [percents((row["test"] for row in ended(rows)), digits)] if lost < len(rows) else []
    return ", ".join(told + [f"{lost} of {len(rows)} diverged"] * bool(lost))


def cifar100_input(rows: list[Row]) -> str:
    """Returns the latest row of each contender: pipelines, and the students that they feed."""
    columns = [
        "",
        "milliseconds for a batch (quartiles)",
        "images in a second",
        "times the fastest student",
        "wanted",
    ]
    lines = []
    latest = common.latest(rows, "contender")
    for row in latest:
        ratio = common.told(row, "ratio", 0) if "ratio_to" in row else ""
        cells = [row["contender"], common.told(row, "ms", 2), f"{row['images_per_second']:,}"]
        cells += [ratio, f"≥ {row['wanted']:.0f}" if "wanted" in row else ""]
        lines.append(cells)
    return "\n".join(
        [
            *common.table(columns, lines),
            "",
            *common.origins(latest, "batch", "batches", "steps", "rounds"),
        ]
    )


def cifar100_kills(rows: list[Row]) -> str:
    """Returns the latest row of each pair and method that was killed and went on."""
    columns = [
        "teacher → student",
        "method",
        "steps",
        "killed after",
        "losses afterwards differ by",
    ]
    lines = []
    latest = common.latest(rows, "pair", "method")
    for row in latest:
        pair, apart = row["pair"].replace(":", " → "), f"{row['difference']:.0e}"
        cells = [pair, row["method"], row["steps"], row["steps_before"]]
        cells.append(apart if row["difference"] else "0")
        lines.append(cells)
    return "\n".join(
        [*common.table(columns, lines), "", *common.origins(latest, "epochs", "samples", "batch")]
    )


def cifar100_paper(rows: list[Row]) -> str:
    """Returns what was published for each pair, ours below it where it was run, and improvements.

    Ours of ModReduce is the aggregator that is best in validation, by the mean over the seeds.
    """
    runs = runs_of(rows)
    columns = ["teacher → student", "", "teacher", "labels", "KD", "SemCKD", "CRD", "ModReduce"]
    lines, ours = [], {}
    for pair, published in PUBLISHED.items():
        values = [f"{value:.2f}" for value in published]
        lines.append([pair.replace(":", " → "), "published", *values])
        methods = by_method(runs, pair)
        if methods:
            cells, means = _our_cells(methods)
            lines.append(["", "ours", *cells])
            if None not in means:
                ours[pair] = Published(*means)
    told = ["", improvements("published", PUBLISHED.values())]
    if ours:
        told.append(improvements("ours", ours.values()))
    return "\n".join([*common.table(columns, lines), *told, "", *_origins(runs.values())])


def _our_cells(methods: Mapping[str, list[Row]]) -> tuple[list[str], list[float | None]]:
    """Returns a pair's accuracies as text, and their means; `None` where there is none."""
    published = [name for name in methods if name.startswith("modreduce/") and "," not in name]
    groups = [ended(methods[name]) for name in published]
    best = max(filter(None, groups), key=_mean_validation, default=[])
    every = [row for rows in methods.values() for row in rows]
    teachers = [row["teacher_test"] for row in every if row["teacher_test"] is not None]
    columns = [methods.get(name, []) for name in STUDENTS] + [best]
    cells = [percents(teachers[:1], 2), *(_deployed(rows, digits=2) for rows in columns)]
    values = [teachers[:1], *([row["test"] for row in ended(rows)] for rows in columns)]
    means = [100 * statistics.mean(known) if known else None for known in values]
    if best:
        cells[-1] += f" ({best[0]['method'].partition('/')[2]})"
    return cells, means


def _mean_validation(rows: Sequence[Row]) -> float:
    return statistics.mean(row["validation"] for row in rows)


def improvements(whose: str, pairs: Iterable[Published]) -> str:
    """Returns the average relative improvements of ModReduce as a sentence.

    As `mr.evaluation.average_relative_improvement` has them, which imports TensorFlow.
    """
    pairs = list(pairs)
    parts = []
    for name in ("kd", "semckd", "crd"):
        others = [(pair, getattr(pair, name)) for pair in pairs]
        ratio = statistics.mean(
            (pair.modreduce - other) / (other - pair.plain) for pair, other in others
        )
        parts.append(f"{100 * ratio:.1f} % over {STUDENTS[name]}")
    return f"Average relative improvement of ModReduce, {whose}: {', '.join(parts)}."


def percents(values: Iterable[float | None], digits: int = 1) -> str:
    """Returns shares as a mean and standard deviation in percent."""
    return common.mean_and_deviation([100 * value for value in values if value is not None], digits)


def _teachers(rows: Iterable[Row]) -> list[str]:
    known = {row["pair"]: row["teacher_test"] for row in rows if row["teacher_test"] is not None}
    return [
        f"{pair.replace(':', ' → ')}: the teacher is right on {value:.2%} of the test images."
        for pair, value in known.items()
    ] + [""]


def _origins(rows: Iterable[Row]) -> list[str]:
    """Returns a line for each command and device, whatever methods and seeds, and its commits."""
    by_command = {}
    for row in rows:
        command = re.split(r" '?--(?:method|first_seed)=", row["command"])[0]
        own = by_command.setdefault((command, row["device"]), [])
        own.append({**row, "command": command})
    alike = []
    for own in by_command.values():
        commits = ", ".join(dict.fromkeys(row["commit"] for row in own if row["commit"]))
        last = max(row["date"] for row in own)
        alike += [{**row, "commit": commits, "date": last} for row in own]
    return common.origins(alike, *SETTINGS)
