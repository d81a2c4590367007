"""Draws the figures of docs/evidence.md from the rows of `train.py`.

    python -m benchmarks.cifar100.evidence_plot

What each method gains over the labels alone, the recipe of ModReduce beside its rivals seed by
seed, what students learn from one another, what longer trainings give, what another student gains,
what few labels do, and what every loss gains with its default weight.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import common
from benchmarks.cifar100 import every_loss_table, evidence
from benchmarks.cifar100.tables import Row, ended, mean_of_students, standard_error
from modreduce_keras.callbacks import plots

FLAGS = flags.FLAGS
flags.DEFINE_string("results", str(common.RESULTS), "The folder of the rows")
flags.DEFINE_string("figures", str(common.FIGURES), "The folder of the figures")

MIDDLE, SMALL = evidence.FILES
TOLD = {MIDDLE: "30 epochs of 45,000 images", SMALL: "20 epochs of 10,000 images"}


def gains_of(rows: Mapping[str, list[Row]], method: str) -> dict[str, list[float]]:
    """Returns by protocol how many points a method's seeds are above the labels alone."""
    found = {}
    for file in evidence.FILES:
        runs = evidence.of_length(rows[file], evidence.EPOCHS[file])
        own = [row for (name, _), row in runs.items() if name == method]
        found[file] = evidence.gains(own, runs)
    return found


def draw_gains(rows: Mapping[str, list[Row]], figure: Any) -> None:
    """Draws a line for each method: the mean gain in each protocol, and its standard error."""
    names = {**evidence.SINGLE, **evidence.SEVERAL}
    gains = {name: gains_of(rows, method) for method, name in names.items() if method != "plain"}
    gains = {name: own for name, own in gains.items() if any(own.values())}
    ordered = sorted(
        gains, key=lambda name: max(map(statistics.mean, filter(None, gains[name].values())))
    )
    figure.set_size_inches(9.0, 0.9 + 0.3 * len(ordered))
    axes = figure.subplots()
    for file, color, shift in zip(evidence.FILES, plots.COLORS, (0.12, -0.12), strict=False):
        _dots(axes, [gains[name][file] for name in ordered], shift, color, TOLD[file])
    axes.axvline(0, color=plots.INK, linewidth=1)
    axes.set_yticks(range(len(ordered)), ordered)
    axes.set_xlabel("points over the labels alone (mean, standard error)", loc="right")
    _finish(axes, "x")


def draw_recipe(rows: Mapping[str, list[Row]], figure: Any) -> None:
    """Draws a line for each seed, from one DIST student to the recipe."""
    runs = evidence.of_length(rows[MIDDLE], evidence.EPOCHS[MIDDLE])
    seeds = sorted(s for m, s in runs if m == evidence.RECIPE and (evidence.RIVAL, s) in runs)
    stops = [
        "labels alone",
        "one student, DIST",
        "best of three, DIST",
        "recipe",
        "ensemble of three",
    ]
    figure.set_size_inches(8.0, 4.2)
    axes = figure.subplots()
    for number, seed in enumerate(seeds):
        rival = runs[evidence.RIVAL, seed]
        singles = [runs.get((method, seed), {}).get("test") for method in ("plain", "dist")]
        tests = [*singles, rival["test"], runs[evidence.RECIPE, seed]["test"]]
        tests.append(rival["softmax_ensemble_test"])
        shown = [(place, 100 * test) for place, test in enumerate(tests) if test is not None]
        color = plots.COLORS[number % len(plots.COLORS)]
        axes.plot(*zip(*shown, strict=True), "o-", color=color, lw=1.2, label=f"seed {seed}")
    axes.set_xticks(range(len(stops)), stops)
    axes.set_ylabel("test accuracy, %")
    _finish(axes, "y")


def draw_online(rows: Mapping[str, list[Row]], figure: Any) -> None:
    """Draws for each way to learn from one another the deployed student, and the ensemble."""
    measures = {"deployed student": evidence.deployed, "mean of the three": mean_of_students}
    measures["their ensemble"] = evidence.ensemble
    found = evidence.online_of(rows)[::-1]
    figure.set_size_inches(9.0, 1.2 + 0.4 * len(found))
    axes = figure.subplots()
    for number, (told, measure) in enumerate(measures.items()):
        values = [evidence.gains(own, runs, measure) for _, own, runs in found]
        _dots(axes, values, 0.18 * (1 - number), plots.COLORS[number], told)
    names = [f"{evidence.ONLINE[m]}; {own[0]['samples']:,} images" for m, own, _ in found]
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("points over the labels alone (mean, standard error)", loc="right")
    _finish(axes, "x")


def draw_students(rows: Mapping[str, list[Row]], figure: Any) -> None:
    """Draws a line for each method: its gain for each student in the small protocol."""
    found = dict(reversed(evidence.students_of(rows).items()))
    found.pop("plain", None)
    figure.set_size_inches(9.0, 1.2 + 0.4 * len(found))
    axes = figure.subplots()
    for number, (pair, told) in enumerate(evidence.OTHERS.items()):
        values = [evidence.gains(*by_pair[pair]) for by_pair in found.values()]
        _dots(axes, values, 0.12 * (1 - 2 * number), plots.COLORS[number], told)
    axes.axvline(0, color=plots.INK, linewidth=1)
    axes.set_yticks(range(len(found)), [evidence.SINGLE[method] for method in found])
    axes.set_xlabel("points over the labels alone (mean, standard error)", loc="right")
    _finish(axes, "x")


def draw_few_labels(rows: Mapping[str, list[Row]], figure: Any) -> None:
    """Draws for each method its accuracy with few labels and with all."""
    few, whole = evidence.few_labels_of(rows)
    keys = [key for key in reversed(evidence.FEW) if key in few]
    figure.set_size_inches(9.0, 1.2 + 0.4 * len(keys))
    axes = figure.subplots()
    told = ("labels for 1,000 of 10,000 images", "labels for all")
    for number, tests in enumerate((few, whole)):
        values = [[100 * test for test in tests.get(key, {}).values()] for key in keys]
        _dots(axes, values, 0.12 * (1 - 2 * number), plots.COLORS[number], told[number])
    axes.set_yticks(range(len(keys)), [evidence.FEW[key] for key in keys])
    axes.set_xlabel("test accuracy, % (mean, standard error)", loc="right")
    _finish(axes, "x")


def _dots(axes: Any, values: list[list[float]], shift: float, color: str, label: str) -> None:
    """Draws a mean and its standard error on each line that has values."""
    places = [place for place, own in enumerate(values) if own]
    known = [values[place] for place in places]
    axes.errorbar(
        [statistics.mean(own) for own in known],
        [place + shift for place in places],
        xerr=[standard_error(own) for own in known],
        fmt="o",
        color=color,
        label=label,
        markersize=5,
    )


def draw_lengths(rows: Mapping[str, list[Row]], figure: Any) -> None:
    """Draws accuracy over the steps of students, a line for each method of several lengths."""
    points: dict[str, dict[int, list[float]]] = {}
    for row in ended([row for row in rows[MIDDLE] if row["pair"] == evidence.PAIR]):
        steps = points.setdefault(row["method"], {}).setdefault(row["student_steps"], [])
        steps.append(100 * row["test"])
    names = {**evidence.SINGLE, **evidence.SEVERAL}
    chosen = [
        m for m in names if len(points.get(m, {})) > 1 or m in (evidence.RECIPE, evidence.RIVAL)
    ]
    figure.set_size_inches(8.0, 4.2)
    axes = figure.subplots()
    for number, method in enumerate(chosen):
        steps = sorted(points.get(method, {}))
        means = [statistics.mean(points[method][one]) for one in steps]
        errors = [standard_error(points[method][one]) for one in steps]
        color = plots.COLORS[number % len(plots.COLORS)]
        thousands = [one / 1000 for one in steps]
        axes.errorbar(thousands, means, yerr=errors, fmt="o-", color=color, label=names[method])
    axes.set_xlabel("steps of students, thousands")
    axes.set_ylabel("test accuracy, %")
    _finish(axes, "y")


def draw_every_loss(rows: Mapping[str, list[Row]], figure: Any) -> None:
    """Draws a line for each loss: its gain in each protocol; losses that diverged have no dot."""
    gains = {file: every_loss_table.gains_of(rows, file) for file in (SMALL, MIDDLE)}
    names = list(dict.fromkeys([*gains[SMALL], *gains[MIDDLE]]))[::-1]
    figure.set_size_inches(9.0, 0.9 + 0.22 * len(names))
    axes = figure.subplots()
    for file, color, shift in zip((MIDDLE, SMALL), plots.COLORS, (0.12, -0.12), strict=False):
        own = [gains[file][name].points if name in gains[file] else [] for name in names]
        if any(own):
            _dots(axes, own, shift, color, TOLD[file])
    axes.axvline(0, color=plots.INK, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("points over the labels alone (mean, standard error)", loc="right")
    _finish(axes, "x")


def _finish(axes: Any, grid: str) -> None:
    style = {"frameon": False, "labelcolor": plots.INK, "fontsize": 8}
    axes.figure.legend(loc="outside upper center", ncols=3, **style)
    axes.grid(axis=grid, color=plots.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=plots.INK, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


FIGURES = {
    "evidence_gains": draw_gains,
    "evidence_recipe": draw_recipe,
    "evidence_online": draw_online,
    "evidence_lengths": draw_lengths,
    "evidence_students": draw_students,
    "evidence_few_labels": draw_few_labels,
    "evidence_every_loss": draw_every_loss,
}


def main(_) -> None:
    from matplotlib.figure import Figure

    files = (*every_loss_table.FILES, evidence.FEW_LABELS, evidence.STUDENTS)
    rows = {file: common.read_rows(Path(FLAGS.results) / f"{file}.jsonl") for file in files}
    if not all(rows.values()):
        raise app.UsageError(f"--results must be a folder with {files}. Received: {FLAGS.results}")
    for name, draw in FIGURES.items():
        figure = Figure(layout="constrained")
        draw(rows, figure)
        figure.savefig(Path(FLAGS.figures) / f"{name}.png", dpi=120)


if __name__ == "__main__":
    app.run(main)
