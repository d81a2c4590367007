"""Tests of text of users in files: whatever it holds, it is shown and never run."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure

import modreduce_keras as mr
from modreduce_keras import escapes
from modreduce_keras.callbacks import plots
from modreduce_keras.reporting import svg
from modreduce_keras.tuning import pictures
from modreduce_keras.tuning.results import Results

HOSTILE = "=1|<b>\n`x` $a_b$ [l](u) \x07\x00\ud800 *s*\u2028# end"
SHOWN = "=1|<b> `x` $a_b$ [l](u) \ufffd\ufffd\ufffd *s* # end"
"""The same on one line, with a sign for what no file can hold."""


def unescaped(markdown):
    return re.sub(r"\\(.)", r"\1", markdown)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("val_accuracy", "val_accuracy"),
        ("_a_ b_ __init__", r"\_a\_ b\_ \_\_init\_\_"),
        ("a|b", r"a\|b"),
        ("<i>&amp;", r"\<i\>\&amp;"),
        ("$x$ `c` ~~d~~ #1", r"\$x\$ \`c\` \~\~d\~\~ \#1"),
        ("![a](b) \\", r"!\[a\](b) \\"),
        ("a\r\nb\x0bc\x85d", "a b c d"),
    ],
)
def test_markdown(content, expected):
    assert escapes.markdown(content) == expected


def test_nothing_of_a_text_is_taken_for_markdown():
    escaped = escapes.markdown(HOSTILE)
    assert unescaped(escaped) == SHOWN
    assert not re.search(r"(?<!\\)[|<>`$*\[\]#]", escaped)
    assert escaped.encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r\n=1", "'\n=1"),
        ("\uff1d1", "'\uff1d1"),
        ("-1", "-1"),
        ("+1e-5", "+1e-5"),
        ("-inf", "-inf"),
        ("a=1", "a=1"),
        ("a\x00b", "a\ufffdb"),
        (-1.5, -1.5),
        (np.float64(-1.5), -1.5),
        (True, True),
        (None, ""),
        ((1, 2), "(1, 2)"),
    ],
)
def test_csv(value, expected):
    assert escapes.csv(value) == expected


def test_xml():
    element = ElementTree.fromstring(f'<a b="{escapes.xml(HOSTILE)}">{escapes.xml(HOSTILE)}</a>')
    plain = HOSTILE.replace("\x07\x00\ud800", "\ufffd\ufffd\ufffd")
    assert element.text == plain
    assert " ".join(element.get("b").split()) == " ".join(plain.split())


@pytest.mark.parametrize(
    "content", ["$", "$a$", "$\\frac{$", "a$b$c$", r"\$x$", HOSTILE, "_hidden"]
)
def test_matplotlib_shows_dollars_and_hides_no_line(content):
    axes = (figure := Figure()).subplots()
    axes.plot([0, 1], label=escapes.plot(content))
    axes.set_title(escapes.plot(content))
    legend = axes.legend()
    figure.savefig(io.BytesIO())
    (shown,) = legend.get_texts()
    parsed, is_math = shown._preprocess_math(shown.get_text())
    assert not is_math
    expected = SHOWN if content == HOSTILE else content
    assert parsed.removeprefix("\N{ZERO WIDTH SPACE}") == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a/b\\c", "a_b_c"), ("../x", "_x"), ("", "_"), ("..", "_"), ("ensemble_weight", None)],
)
def test_file_names_have_no_folders(content, expected):
    assert escapes.file_name(content) == (content if expected is None else expected)


def test_svg_files_are_xml_whatever_the_names():
    body = svg.text(0, 0, HOSTILE) + svg.rectangle(0, 0, 1, 1, "card", hint=HOSTILE)
    picture = svg.Picture("name", HOSTILE, HOSTILE, 10, 10, body)
    for source in (picture.inline(), picture.standalone()):
        ElementTree.fromstring(source)
        assert source.encode()


ROWS = [
    {"trial": "0", "status": "COMPLETED", "score": 0.5, "epoch": 1, HOSTILE: HOSTILE, "x": -2.0},
    {"trial": "1", "status": "COMPLETED", "score": 0.7, "epoch": 1, HOSTILE: "-1", "x": 3.0},
    {"trial": "2", "status": "FAILED", "error": "=HYPERLINK(1)\nTraceback | x"},
]


@pytest.fixture
def results():
    return Results(ROWS, [HOSTILE, "x"], "$val_loss$", "min")


def test_tables_of_a_search_keep_their_cells(results, tmp_path):
    lines = results.to_markdown(tmp_path / "table.md").splitlines()
    assert len(lines) == 2 + len(ROWS)
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert {len(row) for row in cells} == {len(results.columns)}
    assert unescaped(cells[0][4].strip()) == unescaped(cells[2][4].strip()) == SHOWN
    results.to_csv(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert {len(row) for row in rows} == {len(head)}
    assert head[4].startswith("'=1|<b>") and rows[0][4] == head[4]
    assert rows[0][5] == "-2.0" and rows[1][4] == "-1"
    assert rows[2][-1] == "'=HYPERLINK(1)\nTraceback | x"


def test_pictures_of_a_search_are_drawn_whatever_the_names(results, tmp_path):
    results.plot_pair(HOSTILE, "x", tmp_path / "pair.png")
    results.plot_parallel(tmp_path / "parallel.png")
    axes = pictures.pair(results, HOSTILE, "x").axes[0]
    assert axes.get_xlabel() == SHOWN.replace("$", r"\$")


def test_pictures_of_a_training_are_drawn_whatever_the_names(tmp_path):
    epochs = {1: {"a/b$": 0.5, "c$d$e$": 0.25}, 2: {"a/b$": 0.75, "c$d$e$": 0.5}}
    lines = {"$a": "a/b$", "_b$\\frac$": "c$d$e$"}
    chart = plots.Chart("a/../b", "$x$ \\frac$", "$", lines)
    (file,) = plots.draw([chart], epochs, tmp_path)
    assert file == tmp_path / "a_.._b.png"
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_report_is_whole_whatever_the_names(tmp_path):
    student = mr.models.convnet(num_classes=3, widths=(2,), input_shape=(4, 4, 1))
    x, y = np.random.default_rng(0).random((12, 4, 4, 1)).astype("float32"), np.arange(12) % 3
    made = mr.report(
        teacher=student,
        students={HOSTILE: keras.models.clone_model(student)},
        data=(x, y),
        path=tmp_path,
        histories={HOSTILE: {HOSTILE: [0.5, 0.25]}},
        curve=HOSTILE,
        class_names=[HOSTILE, "=b", "`c`|"],
        title=HOSTILE,
        repeats=1,
    )
    markdown = made.markdown.read_text("utf-8")
    tables = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert unescaped(markdown.splitlines()[0]) == f"# {SHOWN}"
    named = [line for line in tables if unescaped(line).startswith(f"| {SHOWN}")]
    (row,), (header,) = named, [line for line in tables if line.startswith("| network")]
    assert len(re.split(r"(?<!\\)\|", row)) == header.count("|") + 1
    for picture in (tmp_path / "report_files").glob("*.svg"):
        ElementTree.parse(picture)
    page = made.html.read_text("utf-8")
    assert "<b>\n" not in page and not re.search("[\x00-\x08]", page)
