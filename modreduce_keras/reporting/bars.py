"""Bars: pictures with a row for each network, each with its name above its value."""

from collections.abc import Sequence

from modreduce_keras.reporting import svg, words
from modreduce_keras.reporting.measures import Figures, Together
from modreduce_keras.reporting.style import SERIES

WIDTH = 360
_ROW, _BAR = 40, 12
_PARTS = (
    ("both", "both right", "both_right"),
    ("student", "only the student right", "student_only"),
    ("teacher", "only the teacher right", "teacher_only"),
    ("same", "the same mistake", "same_mistake"),
    ("other", "different mistakes", "different_mistakes"),
)
_NARROWEST_LABELLED = 30


def kinds(figures: Sequence[Figures]) -> dict[str, str]:
    """Returns the colour of each network; a file has that of its student."""
    students = [one.name for one in figures if one.role == "student"]
    colors = {name: str(index % SERIES) for index, name in enumerate(students)}
    return {
        one.name: "teacher" if one.role == "teacher" else colors[one.owner or one.name]
        for one in figures
    }


def _head(y: float, name: str, value: str, kind: str) -> str:
    room = WIDTH - svg.text_width(value) - 28
    return (
        svg.circle(5, y - 4, 4.5, f"s{kind}", name)
        + svg.text(16, y, svg.shortened(name, room))
        + svg.text(WIDTH, y, value, kind="strong", anchor="end")
    )


def dots(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[tuple[str, str, float, tuple[float, float] | None]],
) -> svg.Picture:
    """Returns a picture of shares as dots, on an axis that need not begin at zero.

    Args:
        name: Of the picture.
        title: Its heading.
        caption: How to read it.
        rows: Name, colour, share and, or `None`, its interval.
    """
    ends = [end for *_, share, interval in rows for end in (interval or (share,))]
    low, high = min(ends), max(ends)
    margin = max(0.02, 0.08 * (high - low))
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    left, right = 12, WIDTH - 12

    def place(share: float) -> float:
        return left + (right - left) * (share - low) / (high - low)

    bottom = _ROW * len(rows) - 2
    marks = svg.ticks(low, high, 4)
    digits = 0 if all(abs(100 * mark - round(100 * mark)) < 1e-6 for mark in marks) else 1
    body = ""
    for mark in marks:
        said = words.percent(mark, digits)
        body += svg.text(place(mark), bottom + 16, said, kind="soft", anchor="middle")
    for number, (who, kind, share, interval) in enumerate(rows):
        y = _ROW * number + 16
        body += _head(y, who, words.percent(share), kind)
        body += svg.line([(0, y + 15), (WIDTH, y + 15)], "grid")
        for mark in marks:
            body += svg.line([(place(mark), y + 11), (place(mark), y + 19)], "grid")
        if interval is not None:
            span = [(place(end), y + 15) for end in interval]
            body += svg.line(span, f"whisker l{kind}")
        hint = f"{who}: {words.percent(share, 2)}"
        body += svg.circle(place(share), y + 15, 5.5, f"s{kind}", hint)
    return svg.Picture(name, title, caption, WIDTH, bottom + 24, body)


def bars(
    name: str, title: str, caption: str, rows: Sequence[tuple[str, str, float, str]]
) -> svg.Picture:
    """Returns a picture of amounts as bars from zero.

    Args:
        name: Of the picture.
        title: Its heading.
        caption: How to read it.
        rows: Name, colour, amount, and the amount in words.
    """
    most = max(amount for *_, amount, _ in rows) or 1.0
    body = ""
    for number, (who, kind, amount, said) in enumerate(rows):
        y = _ROW * number + 16
        body += _head(y, who, said, kind)
        body += svg.rectangle(0, y + 8, WIDTH, _BAR, "track", round_by=3)
        length = max(2.0, WIDTH * amount / most)
        body += svg.rectangle(0, y + 8, length, _BAR, f"s{kind}", round_by=3, hint=f"{who}: {said}")
    return svg.Picture(name, title, caption, WIDTH, _ROW * len(rows) + 4, body)


def together(name: str, title: str, caption: str, rows: dict[str, Together]) -> svg.Picture:
    """Returns a picture of who is right where, a bar of all samples for each student."""
    body, y = "", 12.0
    for kind, said, _ in _PARTS:
        body += svg.rectangle(0, y - 10, 12, 12, kind, round_by=3) + svg.text(20, y, said)
        y += 19
    y += 10
    for who, counts in rows.items():
        samples, x = sum(counts), 0.0
        body += svg.text(0, y, svg.shortened(who, 0.85 * WIDTH), kind="strong")
        for kind, said, field in _PARTS:
            count = getattr(counts, field)
            width = WIDTH * count / samples
            hint = f"{said}: {count:,} of {samples:,}"
            body += svg.rectangle(x, y + 8, width, 26, kind, hint=hint)
            if width >= _NARROWEST_LABELLED:
                share = f"{100 * count / samples:.0f} %"
                body += svg.text(x + width / 2, y + 25, share, kind="on", anchor="middle")
            x += width
        y += 56
    return svg.Picture(name, title, caption, WIDTH, y - 16, body)
