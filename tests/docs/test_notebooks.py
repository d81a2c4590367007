"""The guides as notebooks: up to date, complete, and with the code of their pages."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def notebooks(forgets_flags):
    path = ROOT / "docs" / "notebooks.py"
    spec = importlib.util.spec_from_file_location("docs_notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_guide_with_code_has_its_notebook_and_a_link_to_it(notebooks):
    pages = notebooks.pages()
    files = {path.name for path in (ROOT / "docs" / "notebooks").iterdir()}
    assert files == {notebooks.path_of(page).name for page in pages}
    for page in pages:
        text, path = page.read_text("utf-8"), notebooks.path_of(page)
        assert path.read_text("utf-8") == notebooks.render(text), "run python docs/notebooks.py"
        assert f"/blob/main/docs/notebooks/{path.name})" in text


def test_a_notebook_has_the_code_of_its_page_in_order(notebooks):
    page = (ROOT / "docs" / "guides" / "own_images.md").read_text("utf-8")
    cells = json.loads(notebooks.render(page))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    written = re.findall(r"^```python\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE)
    assert code == [notebooks.INSTALL, *written]


def test_cells_of_a_small_page(notebooks):
    page = (
        "# Title\n\n[Open in Colab](https://a)\n\n<!-- table:x -->\nSee [this](../faq.md#a).\n\n"
        "```python\na = 1\n\nb = 2\n```\n\n[That](https://b), and [below](#below).\n"
    )
    notebook = json.loads(notebooks.render(page))
    assert [cell["cell_type"] for cell in notebook["cells"]] == [
        *("markdown", "code", "code", "markdown")
    ]
    first, install, code, last = ("".join(cell["source"]) for cell in notebook["cells"])
    assert first == f"# Title\n\nSee [this]({notebooks.URL}../faq.md#a)."
    assert install == notebooks.INSTALL
    assert code == "a = 1\n\nb = 2"
    assert last == "[That](https://b), and [below](#below)."
