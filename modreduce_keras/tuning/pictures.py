"""Plots of a search: the objective over two hyperparameters, and all of them in parallel."""

import math
from pathlib import Path
from typing import Any

from modreduce_keras import whole_files
from modreduce_keras.escapes import plot

INK, GRID, FAILED = "#333333", "#DDDDDD", "#999999"
COLORS = "viridis"


def save(figure: Any, path: str | Path) -> Path:
    """Saves a figure as PNG and returns the file; its folder is made if it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_files.naming(path):
        figure.savefig(path, dpi=150, format="png")
    return path


def _figure(title: str, width: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib: pip install matplotlib (the extra 'demo' brings it too)"
        ) from error
    figure: Any = Figure(figsize=(width, 4.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes = figure.subplots()
    axes.set_title(plot(title), loc="left", fontsize=13, color=INK, pad=12)
    axes.tick_params(labelsize=10, colors=INK, length=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _colors(figure: Any, axes: Any, results: Any) -> Any:
    """Returns the colour of a score, and draws the scale beside the axes."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import PercentFormatter

    scores = [row["score"] for row in results.completed()]
    scale = ScalarMappable(Normalize(min(scores), max(scores)), colormaps[COLORS])
    is_share = results.objective.endswith("accuracy")
    bar = figure.colorbar(scale, ax=axes, format=PercentFormatter(1.0) if is_share else None)
    bar.set_label(plot(_words(results.objective)), fontsize=11, color=INK)
    bar.ax.tick_params(labelsize=10, colors=INK, length=0)
    bar.outline.set_visible(False)
    return scale.to_rgba


def _words(name: str) -> str:
    validation = "validation " if name.startswith("val_") else ""
    return validation + name.removeprefix("val_").replace("_", " ")


def _categories(results: Any, name: str) -> list[Any] | None:
    """Returns the values of a hyperparameter in their order, or `None` where they are numbers."""
    values = [row[name] for row in results.rows if row[name] is not None]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return None
    return sorted({str(value) for value in values})


def _place(value: Any, categories: list[str] | None) -> float:
    return float(value) if categories is None else float(categories.index(str(value)))


def pair(results: Any, x: str, y: str) -> Any:
    """Returns a figure of the objective, as colour, over two hyperparameters.

    Trials that failed are crosses, the best trial has a ring.

    Args:
        results: The `Results`.
        x: Name of the hyperparameter across.
        y: Name of the hyperparameter upwards.
    """
    results.completed()
    figure, axes = _figure(f"{_words(results.objective)} over {x} and {y}".capitalize(), 7.2)
    color = _colors(figure, axes, results)
    ways = {name: _categories(results, name) for name in (x, y)}
    both = [row for row in results.rows if row[x] is not None and row[y] is not None]
    places = [(row, _place(row[x], ways[x]), _place(row[y], ways[y])) for row in both]
    done = [(row, *place) for row, *place in reversed(places) if row["score"] is not None]
    axes.scatter(
        [place[1] for place in done],
        [place[2] for place in done],
        c=[color(row["score"]) for row, *_ in done],
        s=90,
        label="trials",
    )
    if done:
        axes.scatter(*done[-1][1:], s=190, facecolors="none", edgecolors=INK, label="best")
    lost = [place for place in places if place[0]["error"] is not None]
    if lost:
        crosses = {"marker": "x", "color": FAILED, "label": "failed"}
        axes.scatter([p[1] for p in lost], [p[2] for p in lost], s=60, **crosses)
    for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_label_text(plot(name), fontsize=11, color=INK)
        known = ways[name]
        if known is not None:
            axis.set_ticks(range(len(known)), list(map(plot, known)))
        elif name in results.logarithmic:
            _logarithmic(axes, axis)
    axes.grid(color=GRID, linewidth=0.8)
    axes.margins(0.08)
    return figure


def _logarithmic(axes: Any, axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)


def parallel(results: Any) -> Any:
    """Returns a figure with a line for each completed trial, across all its hyperparameters.

    The last axis is the objective, which also colours the lines; the best is the thickest.

    Args:
        results: The `Results`.
    """
    rows = results.completed()
    scored = {"score": results.objective}
    names = [
        name
        for name in results.hyperparameters
        if all(row[name] is not None for row in rows) and len({row[name] for row in rows}) > 1
    ]
    columns = [*names, "score"]
    figure, axes = _figure("Trials of the search", max(7.2, 1.6 * len(columns)))
    color = _colors(figure, axes, results)
    heights = {name: _heights(results, rows, name) for name in columns}
    for number in reversed(range(len(rows))):
        line = [heights[name][0][number] for name in columns]
        width = 3.2 if number == 0 else 1.4
        axes.plot(range(len(columns)), line, color=color(rows[number]["score"]), linewidth=width)
    for index, name in enumerate(columns):
        axes.axvline(index, color=GRID, linewidth=0.8, zorder=0)
        for height, label in heights[name][1]:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
            axes.annotate(
                plot(label),
                (index, height),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK,
                bbox=box,
            )
    called = [plot(_words(scored.get(name, name))) for name in columns]
    axes.set_xticks(range(len(columns)), called)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.6)
    return figure


def _heights(results: Any, rows: Any, name: str) -> tuple[list[float], list[tuple[float, str]]]:
    """Returns each row's height from 0 to 1 on an axis, and the labels of the axis."""
    categories = None if name == "score" else _categories(results, name)
    values = [_place(row[name], categories) for row in rows]
    low, high = min(values), max(values)
    is_logarithmic = name in results.logarithmic and low > 0

    def height(value: float) -> float:
        if high == low:
            return 0.5
        if is_logarithmic:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    if categories is not None:
        ways = [(height(float(index)), str(one)) for index, one in enumerate(categories)]
        return [height(value) for value in values], [one for one in ways if 0 <= one[0] <= 1]
    middle = math.sqrt(low * high) if is_logarithmic else (low + high) / 2
    text = "{:.1%}" if name == "score" and results.objective.endswith("accuracy") else "{:.3g}"
    few = sorted(set(values)) if len(set(values)) <= 4 else (low, middle, high)
    labels = {height(value): text.format(value) for value in few}
    return [height(value) for value in values], list(labels.items())


def front(found: Any, cost: str) -> Any:
    """Returns a figure of students: the objective over a cost, with a line through the best.

    Args:
        found: The `FoundStudents`.
        cost: Name of the cost across.
    """
    from matplotlib.ticker import PercentFormatter

    rows = [row for row in found.completed() if row[cost] is not None]
    best = sorted(found.pareto(cost), key=lambda row: row[cost])
    figure, axes = _figure(f"{_words(found.objective)} over {_words(cost)}".capitalize(), 7.2)
    axes.scatter(
        [row[cost] for row in rows], [row["score"] for row in rows], s=60, color=FAILED, zorder=2
    )
    line = [row[cost] for row in best], [row["score"] for row in best]
    axes.step(*line, where="post", color=INK, linewidth=1.8, zorder=3)
    axes.scatter(*line, s=90, color=INK, label="Pareto front", zorder=4)
    if cost in found.budget:
        axes.axvline(found.budget[cost], color=FAILED, linestyle="--", label="budget")
    axes.set_xlabel(plot(_words(cost)), fontsize=11, color=INK)
    axes.set_ylabel(plot(_words(found.objective)), fontsize=11, color=INK)
    if found.objective.endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color=GRID, linewidth=0.8)
    axes.margins(0.08)
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)
    return figure
