"""Draws the rows of `train.py`: accuracies by method and cost, and their curves.

    python -m benchmarks.cifar100.plot
    python -m benchmarks.cifar100.plot --rows=benchmarks/results/cifar100_paper.jsonl

On the left every method's deployed student, a dot for each seed, and the ensembles; on the right
the validation accuracy of some of them over the epochs. The figure has the name of the rows.
"""

import statistics
from pathlib import Path

from absl import app, flags

from benchmarks import common
from benchmarks.cifar100.tables import Row, by_method, ended, runs_of
from modreduce_keras.callbacks import plots

FLAGS = flags.FLAGS
flags.DEFINE_string("rows", str(common.RESULTS / "cifar100_small.jsonl"), "The file of the rows")
flags.DEFINE_string("figures", str(common.FIGURES), "The folder of the figures")

FAMILIES = {
    "labels alone": ("plain",),
    "a teacher": (
        *("kd", "kd_even", "hint", "at", "sp", "rkd", "crd", "semckd", "dkd", "dist", "shake"),
    ),
    "three trained independently": ("three/",),
    "ModReduce": ("modreduce/",),
    "peers alone": ("one", "okddip", "pcl"),
}
"""Methods, or prefixes of them that end in a slash, by the kind of their targets."""


def family(method: str) -> str:
    """Returns the kind of a method's targets; its weight makes no difference."""
    kind, slash, _ = method.partition(",")[0].partition("/")
    kind = kind.partition(" and ")[0]
    return next(name for name, members in FAMILIES.items() if kind + slash in members)


def mean_test(rows: list[Row]) -> float:
    return statistics.mean(row["test"] for row in rows)


def draw(methods: dict[str, list[Row]], title: str, path: Path) -> None:
    """Saves the figure of a pair's rows by method."""
    from matplotlib.figure import Figure

    ordered = sorted(methods, key=lambda name: mean_test(methods[name]))
    colors = dict(zip(FAMILIES, [plots.INK, *plots.COLORS], strict=False))
    figure = Figure(figsize=(11.0, 0.5 + 0.3 * len(ordered) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, name in enumerate(ordered):
        rows, color = methods[name], colors[family(name)]
        values = [100 * row["test"] for row in rows]
        together = [row["softmax_ensemble_test"] for row in rows]
        left.plot([statistics.mean(values)] * 2, [place - 0.3, place + 0.3], color=color, lw=2.2)
        left.plot(values, [place] * len(values), "o", color=color, alpha=0.55, markersize=5)
        if None not in together:
            shown = [100 * value for value in together]
            left.plot(shown, [place] * len(shown), "o", color=color, mfc="none", markersize=6)
    left.set_yticks(range(len(ordered)), ordered)
    left.set_xlabel("test accuracy, %: of the deployed student; hollow: the mean of all students")
    best = {}
    for name in ordered:
        best[family(name)] = name
    for group, name in best.items():
        rows = methods[name]
        curves = zip(*(row["curve"]["validation"] for row in rows), strict=True)
        means = [100 * statistics.mean(values) for values in curves]
        every = rows[0]["validate_every"]
        epochs = [min(every * (n + 1), rows[0]["epochs"]) for n in range(len(means))]
        label = name if group == "labels alone" else f"{name}: best of {group}"
        right.plot(epochs, means, color=colors[group], lw=1.8, label=label)
    right.set_xlabel("epoch")
    right.set_ylabel("validation accuracy, %", color=plots.INK)
    right.legend(frameon=False, labelcolor=plots.INK, loc="lower right", fontsize=8)
    for axes, grid in ((left, "x"), (right, "y")):
        axes.grid(axis=grid, color=plots.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=plots.INK, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    left.set_title(title, loc="left", color=plots.INK, pad=12)
    figure.savefig(path, dpi=120)


def main(_) -> None:
    rows = common.read_rows(Path(FLAGS.rows))
    if not rows:
        raise app.UsageError(f"--rows must be a file with rows. Received: {FLAGS.rows}")
    runs = runs_of(rows)
    pairs = list(dict.fromkeys(pair for pair, _, _ in runs))
    for pair in pairs:
        path = Path(FLAGS.figures) / Path(FLAGS.rows).stem
        if len(pairs) > 1:
            path = path.with_name(f"{path.name}_{pair.replace(':', '_')}")
        title = f"CIFAR-100, {pair.replace(':', ' → ')}"
        methods = {name: ended(own) for name, own in by_method(runs, pair).items()}
        methods = {name: own for name, own in methods.items() if own}
        draw(methods, title, path.with_name(f"{path.name}.png"))


if __name__ == "__main__":
    app.run(main)
