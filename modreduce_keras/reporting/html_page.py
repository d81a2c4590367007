"""HTML: a report's page as one file that needs no other and no network."""

import base64
import functools
import re
from typing import Any

import jinja2
import markupsafe

from modreduce_keras import escapes
from modreduce_keras.reporting import style
from modreduce_keras.reporting.page import Page
from modreduce_keras.reporting.svg import Picture

_UNIT = re.compile(r"(?<=\d) (?=%|[KMG]iB|[mµ]s\b)")


def render(page: Page) -> str:
    """Returns the page as HTML."""
    return environment().get_template("page.html").render(page=page)


@functools.cache
def environment() -> jinja2.Environment:
    """Returns what templates are rendered in: it escapes text, and refuses unknown names."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("modreduce_keras.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals.update(
        style=markupsafe.Markup(style.COLORS + style.PAGE + style.PICTURE),
        drawing=_drawing,
        base64=_base64,
    )
    return made


def _text(value: Any) -> Any:
    """Returns a text that any file can hold, in which no unit stands apart from its number."""
    if isinstance(value, markupsafe.Markup) or not isinstance(value, str):
        return value
    return _UNIT.sub("\N{NO-BREAK SPACE}", escapes.printable(value))


def _drawing(picture: Picture) -> markupsafe.Markup:
    return markupsafe.Markup(picture.inline())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
