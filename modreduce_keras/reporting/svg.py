"""SVG: the shapes that pictures are made of, for a page and as files of their own."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from modreduce_keras.escapes import xml
from modreduce_keras.reporting import style

_WIDTH_OF_LETTER = 6.6
_MARGIN = 12


class Picture(NamedTuple):
    """A picture of the report.

    Attributes:
        name: Name of its file, without ending.
        title: Its heading.
        caption: How to read it.
        width: In pixels.
        height: In pixels.
        body: Its shapes.
    """

    name: str
    title: str
    caption: str
    width: float
    height: float
    body: str

    def inline(self) -> str:
        """Returns it for a page, which has its styles."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img">'
            f"{title(self.title)}{self.body}</svg>"
        )

    def standalone(self) -> str:
        """Returns it as the content of a file, with a margin."""
        width, height = self.width + 2 * _MARGIN, self.height + 2 * _MARGIN
        size = f'width="{width:g}" height="{height:g}"'
        corner = f"{-_MARGIN} {-_MARGIN}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
            f'viewBox="{corner} {width:g} {height:g}" role="img">{title(self.title)}'
            f"<style>{style.COLORS}{style.PICTURE}</style>"
            f'<rect class="card" x="{-_MARGIN}" y="{-_MARGIN}" {size}/>{self.body}</svg>'
        )


def title(content: str) -> str:
    """Returns what is shown when the pointer rests on a shape."""
    return f"<title>{xml(content)}</title>"


def text(
    x: float, y: float, content: str, *, kind: str = "", anchor: str = "start", turn: float = 0.0
) -> str:
    """Returns a text at its base line, turned by an angle in degrees."""
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{turned}>'
        f"{xml(content)}</text>"
    )


def rectangle(
    x: float,
    y: float,
    width: float,
    height: float,
    kind: str,
    *,
    round_by: float = 0.0,
    opacity: float | None = None,
    hint: str = "",
) -> str:
    """Returns a rectangle; `hint` is shown when the pointer rests on it."""
    look = f' rx="{round_by:g}"' if round_by else ""
    look += "" if opacity is None else f' fill-opacity="{opacity:.3f}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
        f'class="{kind}"{look}>{title(hint) if hint else ""}</rect>'
    )


def circle(x: float, y: float, radius: float, kind: str, hint: str = "") -> str:
    """Returns a disc."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}">'
        f"{title(hint) if hint else ''}</circle>"
    )


def line(points: Sequence[tuple[float, float]], kind: str, dashes: str = "") -> str:
    """Returns a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" class="{kind}" fill="none"{dashed}/>'


def clipped(x: float, y: float, width: float, height: float, body: str) -> str:
    """Returns shapes of which only the part inside a rectangle is seen."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<svg {place} viewBox="{x:g} {y:g} {width:g} {height:g}">{body}</svg>'


def shortened(content: str, width: float) -> str:
    """Returns a text that about fits a width, without its middle where it is too long."""
    letters = max(5, int(width / _WIDTH_OF_LETTER))
    if len(content) <= letters:
        return content
    end = (letters - 1) // 2
    return f"{content[: letters - 1 - end].rstrip()}…{content[-end:].lstrip()}"


def text_width(content: str) -> float:
    """Returns about how wide a text is."""
    return _WIDTH_OF_LETTER * len(content)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Returns round numbers within a range, at most about so many."""
    raw = (high - low) / most or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    several = math.floor(high / step + 1e-9) - first + 1
    return [(first + number) * step for number in range(several)]


def logarithmic_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns numbers such as 1, 2, 5, 10 within a range of positive ones, at most so many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        marks = [step * 10.0**power for power in powers for step in steps]
        inside = [mark for mark in marks if low <= mark <= high]
        if len(inside) <= most:
            break
    return inside[:: math.ceil(len(inside) / most)] if inside else []
