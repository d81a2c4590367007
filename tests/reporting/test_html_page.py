"""The HTML page by itself: all text is data, whatever it looks like."""

import jinja2
import pytest

from modreduce_keras.reporting import html_page, svg
from modreduce_keras.reporting.page import Page, Section, Shelf, Tile
from modreduce_keras.reporting.words import Table
from tests.support.html_reader import Reader

HOSTILE = "<b>\"x\"</b> & 'y' </style><script> {{ 7 * 7 }} {% raw %} {# #}"


def page_of(text):
    picture = svg.Picture("name", text, text, 10, 20, svg.text(1, 2, text))
    table = Table(header=[text, text], rows=[[text, text]] * 2)
    shelf = Shelf(text, [Tile("a", b"\xff\x00", text, text, 5)])
    section = Section(text, text, [picture], table, [shelf], True)
    return Page(text, [(text, text)], [(text, text)], [section], text)


def test_text_is_neither_html_nor_a_template():
    read = Reader(html_page.render(page_of(HOSTILE)))
    assert not {"script", "i"} & set(read.tags)
    assert read.tags.count("b") == 1
    texts = [one for one in read.words if "{{" in one]
    assert {one.strip() for one in texts} == {HOSTILE}
    assert len(texts) == 22
    assert ("img", "alt", f"sample 5: {HOSTILE}") in read.attributes


def test_what_no_file_can_hold_is_replaced():
    assert "a\N{REPLACEMENT CHARACTER}b" in html_page.render(page_of("a\x00b"))
    html_page.render(page_of("\ud800")).encode("utf-8")


def test_numbers_and_their_units_stay_on_one_line():
    source = html_page.render(page_of("12 % of 4 KiB in 3 ms of 5 samples"))
    said = "12 % of 4 KiB in 3 ms of 5 samples".replace(" %", "\xa0%").replace(" KiB", "\xa0KiB")
    assert said.replace(" ms", "\xa0ms") in source


def test_an_empty_section_has_its_text_alone():
    page = Page("title", [], [], [Section("heading", "words")], "footer")
    read = Reader(html_page.render(page))
    assert not {"table", "figure", "img", "svg"} & set(read.tags)


def test_a_page_begins_with_its_type():
    assert html_page.render(page_of("x")).startswith('<!DOCTYPE html>\n<html lang="en">\n')


def test_a_misspelt_name_in_a_template_is_an_error():
    template = html_page.environment().from_string("{{ pagee.title }}")
    with pytest.raises(jinja2.UndefinedError, match="pagee"):
        template.render(page=page_of("x"))
