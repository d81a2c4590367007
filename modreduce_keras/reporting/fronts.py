"""Fronts: pictures of quality over cost, with a line through what nothing else beats."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from modreduce_keras.pareto import front
from modreduce_keras.reporting import svg, words
from modreduce_keras.reporting.bars import WIDTH

_LEFT, _TOP, _RIGHT, _HEIGHT = 46, 8, WIDTH - 10, 232
_BASE = _TOP + _HEIGHT


class Point(NamedTuple):
    """A network, a file or a trial in a picture.

    Attributes:
        name: What it is called.
        kind: Its colour.
        cost: Positive.
        quality: How good it is.
        interval: Of the quality, or `None`.
        square: Whether it is drawn as a square: a file.
    """

    name: str
    kind: str
    cost: float
    quality: float
    interval: tuple[float, float] | None = None
    square: bool = False


class Scale(NamedTuple):
    """What the axes of a picture say.

    Attributes:
        cost: Name and unit of the cost.
        quality: Name of the quality.
        say_cost: A cost in words.
        sign: 1 where more of the quality is better, -1 where less is.
        is_share: Whether the quality is shown in percent.
        limit: The most that a point may cost, or `None`.
        named: Whether the points are named below the picture.
    """

    cost: str
    quality: str
    say_cost: Callable[[float], str]
    sign: float = 1.0
    is_share: bool = True
    limit: float | None = None
    named: bool = True

    def say_quality(self, value: float) -> str:
        """Returns a quality in words."""
        return words.percent(value) if self.is_share else f"{value:.4g}"


class _Place:
    """Where costs, on a logarithmic axis, and qualities lie in a picture."""

    def __init__(self, points: Sequence[Point], scale: Scale) -> None:
        costs = [one.cost for one in points] + ([] if scale.limit is None else [scale.limit])
        ends = [end for one in points for end in (one.interval or (one.quality,))]
        room = max(1.15, (max(costs) / min(costs)) ** 0.06)
        self.costs = min(costs) / room, max(costs) * room
        margin = 0.08 * (max(ends) - min(ends)) or 0.05 * abs(max(ends)) or 0.05
        low, high = min(ends) - margin, max(ends) + margin
        self.qualities = (max(0.0, low), min(1.0, high)) if scale.is_share else (low, high)

    def x(self, cost: float) -> float:
        low, high = self.costs
        return _LEFT + (_RIGHT - _LEFT) * math.log(cost / low) / math.log(high / low)

    def y(self, quality: float) -> float:
        low, high = self.qualities
        return _BASE - _HEIGHT * (quality - low) / (high - low)


def best(points: Sequence[Point], sign: float) -> list[Point]:
    """Returns the points than which no other is better and no dearer, the cheapest first."""
    found = front([(one.cost, -sign * one.quality) for one in points])
    return sorted((points[index] for index in found), key=lambda one: one.cost)


def picture(
    name: str, title: str, caption: str, points: Sequence[Point], scale: Scale
) -> svg.Picture:
    """Returns a picture of the quality over the cost, with the Pareto front as a line."""
    place = _Place(points, scale)
    chosen = best(points, scale.sign)
    body = _axes(place, scale)
    corners: list[tuple[float, float]] = []
    for one in chosen:  # a cost buys what the point left of it gives, until the next one
        corners += [(place.x(one.cost), corners[-1][1])] if corners else []
        corners.append((place.x(one.cost), place.y(one.quality)))
    corners.append((_RIGHT, corners[-1][1]))
    body += svg.line(corners, "dashed")
    if scale.limit is not None:
        x = place.x(scale.limit)
        body += svg.line([(x, _TOP), (x, _BASE)], "grid")
        body += svg.text(x - 4, _TOP + 10, "budget", kind="soft", anchor="end")
    for one in sorted(points, key=chosen.__contains__):  # the best are drawn above the others
        body += _mark(one, place, scale, "" if one in chosen else "faint ")
    y = _BASE + 60.0
    for one in points if scale.named else []:
        said = f"{scale.say_quality(one.quality)}, {scale.say_cost(one.cost)}"
        body += _shape(one, 6, y - 4)
        body += svg.text(18, y, svg.shortened(one.name, WIDTH - svg.text_width(said) - 26))
        kind = "strong" if one in chosen else "soft"
        body += svg.text(WIDTH, y, said, kind=kind, anchor="end")
        y += 20
    return svg.Picture(name, title, caption, WIDTH, y - 8, body)


def _axes(place: _Place, scale: Scale) -> str:
    body = ""
    marks = svg.ticks(*place.qualities)
    digits = 0 if all(abs(100 * mark - round(100 * mark)) < 1e-6 for mark in marks) else 1
    for mark in marks:
        y = place.y(mark)
        label = words.percent(mark, digits) if scale.is_share else f"{mark:.3g}"
        body += svg.line([(_LEFT, y), (_RIGHT, y)], "grid")
        body += svg.text(_LEFT - 6, y + 4, label, kind="soft", anchor="end")
    for mark in svg.logarithmic_ticks(*place.costs):
        body += svg.line([(place.x(mark), _BASE), (place.x(mark), _BASE + 4)], "grid")
        body += svg.text(place.x(mark), _BASE + 18, f"{mark:g}", kind="soft", anchor="middle")
    middle = (_LEFT + _RIGHT) / 2
    return body + svg.text(middle, _BASE + 36, scale.cost, kind="soft", anchor="middle")


def _mark(one: Point, place: _Place, scale: Scale, look: str) -> str:
    x, y = place.x(one.cost), place.y(one.quality)
    hint = f"{one.name}: {scale.say_quality(one.quality)}, {scale.say_cost(one.cost)}"
    if one.interval is None:
        return _shape(one, x, y, look, hint)
    span = [(x, place.y(end)) for end in one.interval]
    return svg.line(span, f"whisker l{one.kind}") + _shape(one, x, y, look, hint)


def _shape(one: Point, x: float, y: float, look: str = "", hint: str = "") -> str:
    if one.square:
        return svg.rectangle(x - 4.5, y - 4.5, 9, 9, f"{look}s{one.kind}", hint=hint)
    return svg.circle(x, y, 5, f"{look}s{one.kind}", hint)


def of_networks(figures: Sequence[Any], kinds: Mapping[str, str]) -> list[svg.Picture]:
    """Returns pictures of networks and files: how good they are over their size and their time.

    A student that has files stands there as these. Times are those of the files, where there are
    some: a time in Keras is of another runtime. A picture of fewer than two is left out.

    Args:
        figures: Of all networks and files.
        kinds: The colour of each, by its name.
    """
    called, field, sign, is_share = _measure(figures)
    owners = {one.owner for one in figures if one.role == "file"}
    some = [one for one in figures if getattr(one, field) is not None and one.name not in owners]
    files = [one for one in some if one.role == "file"]
    runtime = "The files, each by its own runtime." if files else "In Keras."
    shown = []
    for name, cost, caption, those in (
        ("size", "KiB", "Of the weights in Keras, and of a whole file.", some),
        ("milliseconds", "milliseconds", runtime, files or some),
    ):
        of_bytes = name == "size"
        scale = Scale(cost, called, _size if of_bytes else words.milliseconds, sign, is_share)
        points = [
            Point(
                one.name,
                kinds[one.name],
                one.size / 1024 if of_bytes else one.milliseconds,
                getattr(one, field),
                one.interval,
                one.role == "file",
            )
            for one in those
        ]
        title = f"{called} over {'size' if of_bytes else 'time'}"
        if len(points) > 1:
            shown.append(picture(f"front_{name}", title, caption, points, scale))
    return shown


def _measure(figures: Sequence[Any]) -> tuple[str, str, float, bool]:
    """Returns what tells how good networks are: its name, field and sign, and if it is a share."""
    if any(one.accuracy is not None for one in figures):
        return "Accuracy", "accuracy", 1.0, True
    if any(one.error is not None for one in figures):
        return "Mean absolute error", "error", -1.0, False
    return "Agreement", "agreement", 1.0, True


def _size(kib: float) -> str:
    return words.size(round(1024 * kib))


def of_trials(trials: Any) -> list[svg.Picture]:
    """Returns pictures of the trials of a search: the objective over size and over time.

    Args:
        trials: Rows, objective, direction and budget, as `mr.tuning.find_student` gives them.
    """
    called = words.log(trials.objective).capitalize()
    sign = 1.0 if trials.direction == "max" else -1.0
    is_share = trials.objective.endswith("accuracy")
    shown = []
    for name, cost, say in (
        ("kib", "KiB", _size),
        ("milliseconds", "milliseconds", words.milliseconds),
    ):
        points = [
            Point(_values(row), "0", row[name], row["score"])
            for row in trials.rows
            if row["score"] is not None and row[name] is not None
        ]
        scale = Scale(cost, called, say, sign, is_share, trials.budget.get(name), named=False)
        title = f"{called} over {'size' if name == 'kib' else 'time'}"
        if points:
            shown.append(picture(f"trials_{name}", title, "Of the TFLite file.", points, scale))
    return shown


def _values(row: Mapping[str, Any]) -> str:
    """Returns the hyperparameters of a trial in words."""
    costs = ("kib", "milliseconds", "multiply_adds", "score", "epochs", "refused")
    known = {name: value for name, value in row.items() if name not in costs}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
