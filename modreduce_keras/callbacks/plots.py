"""Plots of a training: lines over epochs, one chart for each question."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from modreduce_keras import escapes, whole_files

# Okabe and Ito's colours, which colour-blind people tell apart; black is left to the group.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
STYLES = ["-", "--", ":", "-."]
INK, GRID = "#333333", "#DDDDDD"
AMONG, ENSEMBLE = "among students", "ensemble"

Epochs = Mapping[int, Mapping[str, float]]


class Chart(NamedTuple):
    """A picture to draw.

    Attributes:
        name: Name of the file, without ending.
        title: Its heading.
        label: What the vertical axis shows.
        lines: Names of the logs to draw, by the name of the line.
        is_share: Whether values lie from 0 to 1, and are shown in percent.
    """

    name: str
    title: str
    label: str
    lines: dict[str, str]
    is_share: bool = False


def require_matplotlib() -> None:
    """Raises unless matplotlib can be imported.

    Raises:
        ImportError: With what to install.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib: pip install matplotlib (it is also in the extra 'demo')"
        ) from error


def charts(
    epochs: Epochs,
    students: Sequence[str],
    log_of: Callable[[str, str], str],
    metric: str,
    aggregator_logs: Sequence[str],
) -> list[Chart]:
    """Returns the charts of a training.

    Args:
        epochs: The logs of each epoch, by its number.
        students: Names of the students, and `"ensemble"`.
        log_of: Returns the name of a student's value in the logs.
        metric: The metric of the learning curves, if it is there; else the first accuracy or, if
            there is none, the first value of the first student.
        aggregator_logs: What the aggregator logs for each student, or for all together.
    """

    def lines(log: str, prefix: str = "") -> dict[str, str]:
        return {student: prefix + log_of(student, log) for student in students}

    found = []
    prefix, curve = _learning_curve(epochs, log_of(students[0], ""), metric)
    if curve is not None:
        what = f"{'validation' if prefix else 'training'} {curve.replace('_', ' ')}"
        is_share = curve.endswith("accuracy")
        found.append(
            Chart("learning_curves", "Learning curves", what, lines(curve, prefix), is_share)
        )
    distance = "mean distance of two students' probabilities"
    found.append(Chart("diversity", "Diversity", distance, {AMONG: "diversity"}))
    same = "share of samples with the same top class"
    teacher = {f"{who} and teacher": log for who, log in lines("teacher_agreement").items()}
    found.append(Chart("agreement", "Agreement", same, {AMONG: "agreement", **teacher}, True))
    for log in aggregator_logs:
        what = log.replace("_", " ")
        found.append(Chart(log, f"Aggregator: {what}", what, {what: log, **lines(log)}))
    return found


def _learning_curve(epochs: Epochs, first: str, metric: str) -> tuple[str, str | None]:
    """Returns the prefix and the name of the metric to show, `None` where there is none."""
    names = [name for logs in epochs.values() for name in logs]
    prefix = "val_" if any(name.startswith("val_") for name in names) else ""
    start = prefix + first
    own = [name.removeprefix(start) for name in names if name.startswith(start)]
    likely = [metric, *(name for name in own if name.endswith("accuracy")), "ce", "loss", *own]
    return prefix, next((name for name in likely if name in own), None)


def draw(charts: list[Chart], epochs: Epochs, folder: Path) -> list[Path]:
    """Saves each chart that has values as PNG.

    Args:
        charts: What to draw.
        epochs: The logs of each epoch, by its number.
        folder: Where to; it is made if it is missing.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for chart in charts:
        lines = {line: _points(epochs, log) for line, log in chart.lines.items()}
        lines = {line: points for line, points in lines.items() if points}
        if lines:
            files.append(folder / f"{escapes.file_name(chart.name)}.png")
            with whole_files.naming(files[-1]):
                _figure(chart, lines).savefig(files[-1], dpi=150)
    return files


def _points(epochs: Epochs, log: str) -> dict[int, float]:
    return {epoch: logs[log] for epoch, logs in sorted(epochs.items()) if log in logs}


def _figure(chart: Chart, lines: Mapping[str, Mapping[int, float]]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure: Any = Figure(figsize=(7.2, 4.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes = figure.subplots()
    students = [line for line in lines if not line.startswith((AMONG, ENSEMBLE))]
    for line, points in lines.items():
        axes.plot(
            list(points),
            list(points.values()),
            label=escapes.plot(line),
            **_style(line, students, is_alone=len(lines) == 1),
            marker="o" if len(points) < 20 else "",
            markersize=4,
        )
    axes.set_title(escapes.plot(chart.title), loc="left", fontsize=13, color=INK, pad=12)
    axes.set_xlabel("epoch", fontsize=11, color=INK)
    axes.set_ylabel(escapes.plot(chart.label), fontsize=11, color=INK)
    axes.tick_params(labelsize=10, colors=INK, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    if len(lines) > 1:
        # Beside the lines, where it hides none of them, in the order in which they end.
        handles = sorted(axes.get_lines(), key=lambda line: line.get_ydata()[-1], reverse=True)
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
        axes.legend(handles=handles, **place, fontsize=10, labelcolor=INK)
    return figure


def _style(line: str, students: list[str], *, is_alone: bool) -> dict[str, Any]:
    """Returns how a line looks: that of a student, or of all of them together."""
    if line in students:
        row, column = divmod(students.index(line), len(COLORS))
        return {"color": COLORS[column], "linestyle": STYLES[row % len(STYLES)], "linewidth": 1.8}
    linestyle = ":" if line == AMONG and not is_alone else "-"
    return {"color": "black", "linewidth": 2.4, "linestyle": linestyle}


def require_folder(name: str, path: str | Path | None) -> Path | None:
    """Returns an argument that is the path of a folder, or of none yet; or `None`.

    Raises:
        ValueError: If it is something else, or a file.
    """
    if path is None:
        return None
    if not isinstance(path, (str, Path)) or not str(path) or Path(path).is_file():
        is_file = " (a file)" if isinstance(path, (str, Path)) and str(path) else ""
        raise ValueError(f"{name} must be the path of a folder. Received: {name}={path!r}{is_file}")
    return Path(path)
