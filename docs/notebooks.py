"""Writes the guides as notebooks, docs/notebooks/, from their pages; nothing in them is typed.

    python docs/notebooks.py            rewrites the notebooks
    python docs/notebooks.py --check    fails if one is not up to date

The code of a page is that of its notebook, so `make docs-test` runs both.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_bool("check", False, "Write nothing; fail if a notebook is not up to date")

DOCS = Path(__file__).parent
URL = "https://github.com/modreduce/modreduce_keras/blob/main/docs/guides/"
INSTALL = '%pip install --quiet "modreduce-keras[all]"'

_BLOCK = re.compile(r"^```python\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
_RELATIVE = re.compile(r"\]\((?!https?://|#)([^)\s]+)\)")
_COLAB = re.compile(r"^\[Open in Colab\]\([^)]*\)\n\n", re.MULTILINE)
_MARK = re.compile(r"<!-- .*? -->\n?")


def pages() -> list[Path]:
    """Returns the guides that have code."""
    found = sorted((DOCS / "guides").glob("*.md"))
    return [page for page in found if _BLOCK.search(page.read_text("utf-8"))]


def path_of(page: Path) -> Path:
    """Returns the file of a page's notebook."""
    return DOCS / "notebooks" / f"{page.stem}.ipynb"


def render(text: str) -> str:
    """Returns a notebook with a cell for each block of code and for the text in between."""
    text = _MARK.sub("", _COLAB.sub("", text))
    text = _RELATIVE.sub(rf"]({URL}\1)", text)
    parts = _BLOCK.split(text)
    kinds = [("markdown", "code")[place % 2] for place in range(len(parts))]
    cells = [(kind, part.strip("\n")) for kind, part in zip(kinds, parts, strict=True)]
    cells.insert(1, ("code", INSTALL))
    made = [_cell(number, *cell) for number, cell in enumerate(cells) if cell[1]]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": made, "metadata": {"kernelspec": kernel}}
    return json.dumps({**notebook, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def _cell(number: int, kind: str, source: str) -> dict[str, Any]:
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    cell["source"] = source.splitlines(keepends=True)
    return cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []}


def main(_) -> None:
    """Writes or checks the notebooks."""
    for page in pages():
        path, made = path_of(page), render(page.read_text("utf-8"))
        if path.exists() and path.read_text("utf-8") == made:
            continue
        if FLAGS.check:
            sys.exit(f"{path.name} is not up to date: run python docs/notebooks.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(made, "utf-8")


if __name__ == "__main__":
    app.run(main)
