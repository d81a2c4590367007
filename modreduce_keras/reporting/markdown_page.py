"""Markdown: a report's page as text, with its pictures as files in a folder beside it."""

from modreduce_keras import escapes
from modreduce_keras.reporting.page import Page, Section, Shelf
from modreduce_keras.reporting.words import Table

_IMAGES_IN_A_ROW = 6


def render(page: Page, folder: str) -> str:
    """Returns the page as Markdown.

    Args:
        page: What it says and shows.
        folder: Name of the folder of pictures beside it.
    """
    tiles = Table([what for _, what in page.tiles], [[value for value, _ in page.tiles]])
    blocks = [
        f"# {escapes.markdown(page.title)}",
        _table(tiles),
        "\n".join(
            f"- **{escapes.markdown(name)}** {escapes.markdown(said)}"
            for name, said in page.summary
        ),
    ]
    for section in page.sections:
        blocks += _section(section, folder)
    return "\n\n".join([*blocks, f"---\n\n{escapes.markdown(page.footer)}"]) + "\n"


def files(page: Page) -> dict[str, bytes]:
    """Returns the content of the pictures, by the names of their files."""
    found = {}
    for section in page.sections:
        for picture in section.pictures:
            found[f"{picture.name}.svg"] = picture.standalone().encode()
        for shelf in section.shelves:
            found |= {f"{tile.name}.png": tile.image for tile in shelf.tiles}
    return found


def _section(section: Section, folder: str) -> list[str]:
    blocks = [f"## {escapes.markdown(section.title)}", escapes.markdown(section.text)]
    for one in section.pictures:
        image = f"![{escapes.markdown(one.title)}]({folder}/{one.name}.svg)"
        blocks.append(
            f"**{escapes.markdown(one.title)}.** {escapes.markdown(one.caption)}\n\n{image}"
        )
    blocks += [_table(section.table)] if section.table else []
    for shelf in section.shelves:
        blocks += _shelf(shelf, folder)
    return blocks


def _table(table: Table) -> str:
    header = [escapes.markdown(cell) for cell in table.header]
    rows = [[escapes.markdown(cell) for cell in row] for row in table.rows]
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)
    )


def _shelf(shelf: Shelf, folder: str) -> list[str]:
    blocks = [f"### {escapes.markdown(shelf.title)}"]
    for start in range(0, len(shelf.tiles), _IMAGES_IN_A_ROW):
        tiles = shelf.tiles[start : start + _IMAGES_IN_A_ROW]
        images = [f"![sample {tile.sample}]({folder}/{tile.name}.png)" for tile in tiles]
        rows = [
            [escapes.markdown(tile.right) for tile in tiles],
            [escapes.markdown(tile.wrong) for tile in tiles],
        ]
        lines = [images, ["---"] * len(tiles), *rows]
        blocks.append("\n".join("| " + " | ".join(row) + " |" for row in lines))
    return blocks
