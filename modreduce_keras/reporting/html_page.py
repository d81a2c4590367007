"""HTML: a report's page as one file that needs no other and no network."""

import base64
import re

from modreduce_keras import escapes
from modreduce_keras.reporting import style
from modreduce_keras.reporting.page import Page, Section, Shelf
from modreduce_keras.reporting.svg import Picture
from modreduce_keras.reporting.words import Table

_UNIT = re.compile(r"(?<=\d) (?=%|[KMG]iB|[mµ]s\b)")


def render(page: Page) -> str:
    """Returns the page as HTML."""
    tiles = "".join(
        f'<div class="tile"><b>{_safe(value)}</b><span>{_safe(what)}</span></div>'
        for value, what in page.tiles
    )
    summary = "".join(
        f"<li><strong>{_safe(name)}</strong> {_safe(said)}</li>" for name, said in page.summary
    )
    sections = "".join(_section(one) for one in page.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_safe(page.title)}</title>\n"
        f"<style>{style.COLORS}{style.PAGE}{style.PICTURE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{_safe(page.title)}</h1>\n<div class="tiles">{tiles}</div>\n'
        f'<ul class="summary">{summary}</ul>\n{sections}'
        f"<footer>{_safe(page.footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def _safe(content: str) -> str:
    return _UNIT.sub("&nbsp;", escapes.xml(content))


def _section(section: Section) -> str:
    pictures = "".join(_card(one) for one in section.pictures)
    return (
        f"<section>\n<h2>{_safe(section.title)}</h2>\n<p>{_safe(section.text)}</p>\n"
        + (f'<div class="cards{" two" * section.in_twos}">{pictures}</div>\n' if pictures else "")
        + (_table(section.table) if section.table else "")
        + "".join(_shelf(one) for one in section.shelves)
        + "</section>\n"
    )


def _card(picture: Picture) -> str:
    return (
        f'<figure class="card"><figcaption><h3>{_safe(picture.title)}</h3>'
        f"<p>{_safe(picture.caption)}</p></figcaption>{picture.inline()}</figure>\n"
    )


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{_safe(cell)}</th>' for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    return (
        f'<div class="card wide"><table>\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>\n"
    )


def _shelf(shelf: Shelf) -> str:
    tiles = "".join(
        f'<figure class="card"><img alt="sample {tile.sample}: {_safe(tile.right)}" '
        f'src="data:image/png;base64,{base64.b64encode(tile.image).decode()}">'
        f'<figcaption><span class="right">{_safe(tile.right)}</span>'
        f'<span class="wrong">{_safe(tile.wrong)}</span></figcaption></figure>\n'
        for tile in shelf.tiles
    )
    return f'<h3>{_safe(shelf.title)}</h3>\n<div class="gallery">{tiles}</div>\n'
