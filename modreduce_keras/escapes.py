"""Escapes: shows text of users in Markdown, CSV, XML and plots as it is, and never as code."""

import html
import re
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# An underscore within a word is no emphasis.
_MARKDOWN = re.compile(r"([\\`*\[\]<>|~&$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_FORMULA = (
    *("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}"),
    *("\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}"),
)
_INVISIBLE = "\N{ZERO WIDTH SPACE}"


def printable(content: str) -> str:
    """Returns a text that any file in UTF-8 can hold: no control characters or half surrogates."""
    return _UNPRINTABLE.sub(_REPLACEMENT, content)


def one_line(content: str) -> str:
    """Returns a printable text whose white space, line breaks too, are single spaces."""
    return printable(" ".join(content.split()))


def markdown(content: str) -> str:
    r"""Returns a text of which nothing is taken for Markdown or HTML, on one line.

    Example:
        >>> print(markdown("a|b *c* <i>\n$d$ val_accuracy"))
        a\|b \*c\* \<i\> \$d\$ val_accuracy
    """
    return _MARKDOWN.sub(r"\\\1", one_line(content))


def csv(value: Any) -> Any:
    """Returns a value for a cell of CSV: numbers as they are, and text never as a formula.

    Spreadsheets run what begins with `=`, `+`, `-` or `@`. Such a text, if it is not a number, gets
    an apostrophe before it.

    Example:
        >>> csv("=1+1"), csv("-1.5"), csv(-1.5), csv(None)
        ("'=1+1", '-1.5', -1.5, '')
    """
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return value
    content = printable(str(value).replace("\r\n", "\n").replace("\r", "\n"))
    is_formula = content.lstrip().startswith(_FORMULA) and not _is_number(content)
    return f"'{content}" if is_formula else content


def xml(content: str) -> str:
    """Returns a text for XML or HTML, between tags or in an attribute.

    Example:
        >>> xml('<b> & "c"')
        '&lt;b&gt; &amp; &quot;c&quot;'
    """
    return html.escape(printable(content))


def plot(content: str) -> str:
    r"""Returns a text for matplotlib: `$` begins no formula, and a leading `_` hides no line.

    Example:
        >>> print(plot("costs $1 or $2"))
        costs \$1 or \$2
    """
    content = one_line(content).replace("$", r"\$")
    return _INVISIBLE + content if content.startswith("_") else content


def file_name(content: str) -> str:
    """Returns a text as a name of a file, without folders.

    Example:
        >>> file_name("peers/a b")
        'peers_a_b'
    """
    return re.sub(r"[^\w.-]+", "_", content).lstrip(".") or "_"


def _is_number(content: str) -> bool:
    try:
        float(content)
    except ValueError:
        return False
    return True
