"""Mistakes: errors that a user of the command can mend, told in one line."""

import difflib
from collections.abc import Iterable


class MistakeError(Exception):
    """What was given to the command cannot be used; the message says what can."""


class FailedError(Exception):
    """The work was done, and its result is not good enough; the message says why."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Returns the question " Did you mean 'x'?", or nothing where no known name is close."""
    by_plain = {_plain(name): name for name in known}
    close = difflib.get_close_matches(_plain(given), by_plain, n=1, cutoff=0.6)
    return f" Did you mean {by_plain[close[0]]!r}?" if close else ""


def one_line(error: BaseException) -> str:
    """Returns the message of an error in one line."""
    text = str(error) or type(error).__name__
    if isinstance(error, KeyError):  # shows its argument by repr
        text = str(error.args[0]) if error.args else text
    return " ".join(text.split())


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
