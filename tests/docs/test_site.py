"""The site and the README: complete, up to date, and readable outside of the repository."""

import re
from pathlib import Path

import pytest

import modreduce_keras as mr
from modreduce_keras.registry import components

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
SITE = (ROOT / "mkdocs.yml").read_text("utf-8")
URL = "https://github.com/modreduce/modreduce_keras/blob/main/"
RAW = "https://raw.githubusercontent.com/modreduce/modreduce_keras/main/"
PAGES = sorted(DOCS.rglob("*.md"))


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"([\w/]+\.md)$", SITE, re.MULTILINE))
    assert {page.relative_to(DOCS).as_posix() for page in PAGES} == listed


def test_every_namespace_has_a_page_of_the_api():
    written = "".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    modules = {name for name in mr.__all__ if type(getattr(mr, name)) is type(mr)}
    documented = set(re.findall(r"^::: modreduce_keras\.(\w+)", written, re.MULTILINE))
    assert modules <= documented


def test_the_readme_is_short_and_begins_with_the_installation():
    assert len(README.encode()) <= 10_000
    first = re.search(r"```\w+\n(.*?)\n```", README, re.DOTALL)[1]
    assert first == 'pip install "modreduce-keras[all]"'


def test_the_number_of_losses_is_that_of_the_registry():
    losses = components("loss").values()
    number = sum(cls.__module__.startswith("modreduce_keras.") for cls in losses)
    assert f"[{number} losses]" in README
    assert f"{number} published losses" in (DOCS / "index.md").read_text("utf-8")


def test_links_of_the_readme_work_where_it_is_published():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(links) > 15
    for link in links:
        prefix = next((prefix for prefix in (URL, RAW) if link.startswith(prefix)), None)
        assert prefix, f"{link} is not absolute"
        assert (ROOT / link.removeprefix(prefix)).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_of_the_repository_have_targets(page):
    for kind, path in re.findall(
        re.escape(URL.removesuffix("blob/main/")) + r"(blob|tree)/main/([^)\s#]+)",
        page.read_text("utf-8"),
    ):
        target = ROOT / path
        assert target.is_dir() if kind == "tree" else target.is_file(), path
