"""Markdown: a report's page as text, with its pictures as files in a folder beside it."""

import re

from modreduce_keras.reporting.page import Page, Section, Shelf
from modreduce_keras.reporting.words import Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&])")
_IMAGES_IN_A_ROW = 6


def render(page: Page, folder: str) -> str:
    """Returns the page as Markdown.

    Args:
        page: What it says and shows.
        folder: Name of the folder of pictures beside it.
    """
    tiles = Table([what for _, what in page.tiles], [[value for value, _ in page.tiles]])
    blocks = [
        f"# {_safe(page.title)}",
        _table(tiles),
        "\n".join(f"- **{_safe(name)}** {_safe(said)}" for name, said in page.summary),
    ]
    for section in page.sections:
        blocks += _section(section, folder)
    return "\n\n".join([*blocks, f"---\n\n{_safe(page.footer)}"]) + "\n"


def files(page: Page) -> dict[str, bytes]:
    """Returns the content of the pictures, by the names of their files."""
    found = {}
    for section in page.sections:
        for picture in section.pictures:
            found[f"{picture.name}.svg"] = picture.standalone().encode()
        for shelf in section.shelves:
            found |= {f"{tile.name}.png": tile.image for tile in shelf.tiles}
    return found


def _safe(content: str) -> str:
    """Returns a text of which nothing is taken for Markdown or HTML, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(content.split()))


def _section(section: Section, folder: str) -> list[str]:
    blocks = [f"## {_safe(section.title)}", _safe(section.text)]
    for one in section.pictures:
        image = f"![{_safe(one.title)}]({folder}/{one.name}.svg)"
        blocks.append(f"**{_safe(one.title)}.** {_safe(one.caption)}\n\n{image}")
    blocks += [_table(section.table)] if section.table else []
    for shelf in section.shelves:
        blocks += _shelf(shelf, folder)
    return blocks


def _table(table: Table) -> str:
    header = [_safe(cell) for cell in table.header]
    rows = [[_safe(cell) for cell in row] for row in table.rows]
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)
    )


def _shelf(shelf: Shelf, folder: str) -> list[str]:
    blocks = [f"### {_safe(shelf.title)}"]
    for start in range(0, len(shelf.tiles), _IMAGES_IN_A_ROW):
        tiles = shelf.tiles[start : start + _IMAGES_IN_A_ROW]
        images = [f"![sample {tile.sample}]({folder}/{tile.name}.png)" for tile in tiles]
        rows = [[_safe(tile.right) for tile in tiles], [_safe(tile.wrong) for tile in tiles]]
        lines = [images, ["---"] * len(tiles), *rows]
        blocks.append("\n".join("| " + " | ".join(row) + " |" for row in lines))
    return blocks
