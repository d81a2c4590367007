"""Charts: reliability diagrams, what is confused more and less, and learning curves."""

from collections.abc import Mapping, Sequence

import numpy as np

from modreduce_keras.reporting import svg, words
from modreduce_keras.reporting.bars import WIDTH
from modreduce_keras.reporting.measures import ConfusionChange, Reliability

MOST_CLASSES = 20
_SHOWN_OF_MANY = 12
_DASHES = ("", "7 4", "2 4", "9 3 2 3")
_SMALLEST_NUMBERED = 17


def reliability(name: str, title: str, caption: str, kind: str, one: Reliability) -> svg.Picture:
    """Returns a reliability diagram: accuracy over confidence, and where the samples are."""
    left, top, side, below = 58, 8, 258, 44
    bins = len(one.counts)
    wide = side / bins
    base = top + side
    body = ""
    for mark in (0, 0.25, 0.5, 0.75, 1):
        y, x = base - side * mark, left + side * mark
        body += svg.line([(left, y), (left + side, y)], "grid")
        body += svg.text(left - 6, y + 4, words.percent(mark, 0), kind="soft", anchor="end")
        body += svg.text(x, base + below + 26, words.percent(mark, 0), kind="soft", anchor="middle")
    for index in np.flatnonzero(one.counts):
        accuracy, confidence = one.accuracy[index], one.confidence[index]
        x = left + wide * index + 1
        hint = (
            f"{one.counts[index]:,} samples, {words.percent(confidence)} sure, "
            f"{words.percent(accuracy)} right"
        )
        low, high = sorted((accuracy, confidence))
        height, gap = side * low, side * (high - low)
        body += svg.rectangle(x, base - height, wide - 2, height, f"s{kind}", hint=hint)
        look = f"gap s{kind} l{kind}"
        body += svg.rectangle(x, base - height - gap, wide - 2, gap, look, hint=hint)
        tall = below * one.counts[index] / one.counts.max()
        body += svg.rectangle(x, base + 8, wide - 2, tall, f"faint s{kind}", hint=hint)
    body += svg.line([(left, base), (left + side, top)], "dashed")
    body += svg.text(left + side / 2, base + below + 44, "confidence", kind="soft", anchor="middle")
    body += svg.text(
        12, top + side / 2, "share that is right", kind="soft", anchor="middle", turn=-90
    )
    return svg.Picture(name, title, caption, WIDTH - 24, base + below + 52, body)


def shown_classes(changes: Sequence[ConfusionChange], classes: int) -> list[int]:
    """Returns the classes that a table of changes shows: all, or those that changed most."""
    if classes <= MOST_CLASSES:
        return list(range(classes))
    found = dict.fromkeys(index for one in changes for index in (one.truth, one.said))
    return sorted(list(found)[:_SHOWN_OF_MANY])


def change_table(
    name: str,
    title: str,
    caption: str,
    difference: np.ndarray,
    shown: Sequence[int],
    classes: Sequence[str],
) -> svg.Picture:
    """Returns the changes of a confusion matrix as colours: better and worse than the teacher.

    Args:
        name: Of the picture.
        title: Its heading.
        caption: How to read it.
        difference: The student's confusion matrix less the teacher's.
        shown: The classes to show.
        classes: Names of all.
    """
    longest = max(svg.text_width(classes[index]) for index in shown)
    left = min(92.0, max(28.0, longest + 10))
    top = left * 0.92 + 8
    cell = (WIDTH - left) / len(shown)
    part = difference[np.ix_(shown, shown)]
    most = max(1, np.abs(part).max())
    body = ""
    for row, truth in enumerate(shown):
        y = top + cell * row
        label = svg.shortened(classes[truth], left - 8)
        body += svg.text(left - 6, y + cell / 2 + 4, label, kind="soft", anchor="end")
        x = left + cell * row + cell / 2 + 4
        body += svg.text(x, top - 6, label, kind="soft", turn=-90)
        for column, said in enumerate(shown):
            value = int(part[row, column])
            kind = "better" if (value > 0) == (truth == said) else "worse"
            x = left + cell * column
            verb = "rightly says" if truth == said else f"for {classes[truth]} says"
            hint = f"{verb} {classes[said]}: {words.signed(value)} against the teacher"
            body += svg.rectangle(x + 1, y + 1, cell - 2, cell - 2, "track", round_by=3, hint=hint)
            if not value:
                continue
            opacity = 0.12 + 0.53 * abs(value) / most
            body += svg.rectangle(
                x + 1, y + 1, cell - 2, cell - 2, kind, round_by=3, opacity=opacity, hint=hint
            )
            if cell >= _SMALLEST_NUMBERED:
                body += svg.text(
                    x + cell / 2,
                    y + cell / 2 + 4,
                    words.signed(value),
                    kind="cell",
                    anchor="middle",
                )
    return svg.Picture(name, title, caption, WIDTH, top + cell * len(shown) + 2, body)


def pairs(
    name: str,
    title: str,
    caption: str,
    changes: Sequence[ConfusionChange],
    classes: Sequence[str],
) -> svg.Picture:
    """Returns the largest changes: from the teacher's count to the student's."""
    most = max(max(one.teacher, one.student) for one in changes)
    left, right = 8, WIDTH - 8

    def place(count: int) -> float:
        return left + (right - left) * count / most

    body, y = "", 14.0
    for one in changes:
        kind = "worse" if one.student > one.teacher else "better"
        value = f"{one.teacher:,} → {one.student:,}"
        room = WIDTH - svg.text_width(value) - 14
        said = f"{classes[one.truth]} taken for {classes[one.said]}"
        body += svg.text(0, y, svg.shortened(said, room))
        body += svg.text(WIDTH, y, value, kind="strong", anchor="end")
        body += svg.line([(left, y + 12), (right, y + 12)], "grid")
        ends = [(place(one.teacher), y + 12), (place(one.student), y + 12)]
        body += svg.line(ends, f"whisker l{kind}")
        body += svg.circle(*ends[0], 5, "steacher", f"{said}: teacher {one.teacher:,}")
        body += svg.circle(*ends[1], 5, kind, f"{said}: student {one.student:,}")
        y += 36
    return svg.Picture(name, title, caption, WIDTH, y - 8, body)


def curves(
    name: str,
    title: str,
    caption: str,
    lines: Mapping[str, tuple[str, Sequence[float]]],
    is_share: bool,
) -> svg.Picture:
    """Returns learning curves.

    Args:
        name: Of the picture.
        title: Its heading.
        caption: How to read it.
        lines: Colour and values over the epochs, by name.
        is_share: Whether values lie from 0 to 1, and are shown in percent.
    """
    left, top, right, height = 46, 8, WIDTH - 8, 232
    wide = right - left
    epochs = max(len(values) for _, values in lines.values())
    low, high = _range([values for _, values in lines.values()])
    base = top + height

    def place(epoch: int, value: float) -> tuple[float, float]:
        x = left + wide * ((epoch - 1) / (epochs - 1) if epochs > 1 else 0.5)
        return x, base - height * (value - low) / (high - low)

    body = ""
    marks = svg.ticks(low, high)
    digits = 0 if all(abs(100 * mark - round(100 * mark)) < 1e-6 for mark in marks) else 1
    for mark in marks:
        y = place(1, mark)[1]
        label = words.percent(mark, digits) if is_share else f"{mark:.3g}"
        body += svg.line([(left, y), (right, y)], "grid")
        body += svg.text(left - 6, y + 4, label, kind="soft", anchor="end")
    for mark in sorted({1, *(int(one) for one in svg.ticks(1, epochs) if one == int(one)), epochs}):
        if mark == epochs or epochs - mark >= epochs / 12:
            body += svg.text(
                place(mark, low)[0], base + 18, f"{mark}", kind="soft", anchor="middle"
            )
    drawn, legend, y = "", "", base + 60
    seen: dict[str, int] = {}
    for who, (kind, values) in lines.items():
        dashes = _DASHES[seen.get(kind, 0) % len(_DASHES)]
        seen[kind] = seen.get(kind, 0) + 1
        points = [place(epoch, value) for epoch, value in enumerate(values, 1)]
        drawn += svg.line(points, f"curve l{kind}", dashes)
        last = words.percent(values[-1]) if is_share else f"{values[-1]:.4g}"
        drawn += svg.circle(*points[-1], 4, f"s{kind}", f"{who}: {last}")
        legend += svg.line([(2, y - 4), (22, y - 4)], f"curve l{kind}", dashes)
        legend += svg.text(30, y, svg.shortened(who, WIDTH - 96))
        legend += svg.text(WIDTH, y, last, kind="strong", anchor="end")
        y += 20
    # Discs at the border are seen whole.
    body += svg.clipped(left - 6, top - 6, wide + 12, height + 12, drawn) + legend
    body += svg.text(left + wide / 2, base + 36, "epoch", kind="soft", anchor="middle")
    return svg.Picture(name, title, caption, WIDTH, y - 8, body)


def _range(lines: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Returns the values to show: the first epochs are steep, and would leave the rest no room."""
    late = [value for values in lines for value in values[len(values) // 8 :]]
    low, high = min(late), max(late)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
