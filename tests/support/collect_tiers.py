"""Program for test_tiers: collects once, and writes which cases pytest selects by marks.

Usage: python collect_tiers.py FILE MARKS ..., with expressions as for `pytest -m`. The file is a
JSON object of the names of the cases by expression.
"""

import json
import sys
from pathlib import Path

import pytest


class Selections:
    """A plugin of pytest that selects once more from all cases, by one expression after another."""

    def __init__(self, expressions: list[str]) -> None:
        self._expressions = expressions
        self.cases: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        config = session.config
        for marks in self._expressions:
            items = [*session.items]
            config.option.markexpr = marks
            config.hook.pytest_collection_modifyitems(session=session, config=config, items=items)
            self.cases[marks] = [item.nodeid for item in items]


if __name__ == "__main__":
    file, *expressions = sys.argv[1:]
    selections = Selections(expressions)
    code = pytest.main(
        ["--collect-only", "-qq", "-m", "", "-p", "no:cacheprovider"], plugins=[selections]
    )
    Path(file).write_text(json.dumps(selections.cases), "utf-8")
    raise SystemExit(code)
