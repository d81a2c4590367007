"""The pages of a report: what they say is what was found, and they are sound Markdown and HTML."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from modreduce_keras.reporting import words
from tests.support.html_reader import Reader

ODD = "<i>odd</i> | student_2"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def page(made):
    return Reader(made.html.read_text("utf-8"))


@pytest.fixture(scope="module")
def markdown(made):
    return made.markdown.read_text("utf-8")


def cells(line):
    """Returns the cells of a row of Markdown as they are read."""
    parts = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return [re.sub(r"\\(.)", r"\1", part.strip()) for part in parts]


def expected_row(one):
    name = f"{one.name} (of {one.owner})" if one.owner else one.name
    percent = "{:.1%}".format
    low, high = (round(100 * end, 1) for end in one.interval)

    def number(value, form="{:,}"):
        return words.NONE if value is None else form.format(value).replace("%", " %")

    return [
        name,
        number(one.accuracy, "{:.1%}"),
        f"{low} {words.NONE} {high} %",
        number(one.agreement, "{:.1%}"),
        number(one.owner_agreement, "{:.2%}"),
        percent(one.confidence).replace("%", " %"),
        percent(one.calibration.error).replace("%", " %"),
        number(one.parameters),
        number(one.multiply_adds),
        f"{one.size / 1024:.1f} KiB" if one.size >= 1024 else f"{one.size} bytes",
    ]


def test_tables_hold_the_figures(made, page, markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    start = next(place for place, line in enumerate(lines) if line.startswith("| network"))
    written = [cells(line) for line in lines[start + 2 : start + 6]]
    expected = [expected_row(one) for one in made.figures.values()]
    assert [row[:-1] for row in written] == expected
    assert page.rows[1:5] == written
    assert page.rows[0] == cells(lines[start])
    for row, one in zip(written, made.figures.values(), strict=True):
        value, unit = row[-1].split()
        scale = {"ms": 1, "µs": 1e-3}[unit]
        assert float(value) * scale == pytest.approx(one.milliseconds, rel=0.05)


def test_page_needs_nothing_else(page, made):
    for tag, name, value in page.attributes:
        assert name not in ("href", "xlink:href", "srcset", "data", "action")
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        assert not name.startswith("on"), (tag, name)
    assert not set(page.tags) & {"script", "link", "iframe", "object", "base"}
    source = made.html.read_text("utf-8")
    assert "url(" not in source
    assert "http" not in source
    assert "@import" not in source
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    assert ("meta", "name", "viewport") in page.attributes


def test_names_are_text(page, markdown, made):
    assert page.tags.count("b") == page.source.count('class="tile"') == 5
    text = "".join(page.words)
    assert ODD in text
    assert "<b>bold</b> & co" in text
    source = made.html.read_text("utf-8")
    assert "<i>" not in source
    assert "<b>bold" not in source
    plain = re.sub(r"\\.", "", markdown)
    assert "<" not in plain
    assert r"\<i\>odd\</i\> \| student_2" in markdown


def test_summary_says_the_figures(page, made):
    text = " ".join("".join(page.words).replace("\N{NO-BREAK SPACE}", " ").split())
    teacher, plain, file = (made.figures[name] for name in ("teacher", "plain", "plain.tflite"))
    assert f"is right on {100 * teacher.accuracy:.1f} % of 70 samples" in text
    ratio = teacher.parameters / plain.parameters
    part = f"1/{ratio:.0f}" if ratio >= 2 else f"{100 / ratio:.0f} %"
    assert f"with {part} of its parameters" in text
    assert f"the same answer {100 * plain.agreement:.1f} % of the time" in text
    assert f"is plain as a file of {file.size / 1024:.1f} KiB" in text


def test_every_section_is_there(page):
    text = "".join(page.words)
    for title in (
        "At a glance",
        "Agreement with the teacher",
        "What is confused",
        "What it looks like",
        "Does it know how sure to be?",
        "How fast it is",
        "What it costs to be right",
        "How it learnt",
    ):
        assert title in text


def test_markdown_has_all_its_pictures_and_no_others(markdown, made):
    folder = made.markdown.parent / "report_files"
    named = set(re.findall(r"!\[[^\n]*?\]\(report_files/([\w-]+\.\w+)\)", markdown))
    assert named == {path.name for path in folder.iterdir()}
    assert len([name for name in named if name.endswith(".svg")]) >= 14


def test_pictures_are_files_of_their_own(made):
    for path in (made.markdown.parent / "report_files").glob("*.svg"):
        root = ElementTree.fromstring(path.read_text("utf-8"))
        assert root.tag == f"{SVG}svg"
        assert len(root.findall(f".//{SVG}text")) > 1
        assert "http" not in path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")


def shapes(made, name, tag):
    path = made.markdown.parent / "report_files" / f"{name}.svg"
    return ElementTree.fromstring(path.read_text("utf-8")).findall(f".//{SVG}{tag}")


def test_bars_are_as_long_as_their_numbers(made):
    bars = [
        one for one in shapes(made, "parameters", "rect") if one.find(f"{SVG}title") is not None
    ]
    widths = np.array([float(one.get("width")) for one in bars])
    numbers = [made.figures[name].parameters for name in ("teacher", "plain", ODD)]
    np.testing.assert_allclose(widths / widths.max(), np.array(numbers) / max(numbers), atol=1e-3)


def test_bar_of_who_is_right_holds_all_samples(made):
    parts = [one for one in shapes(made, "together", "rect") if one.find(f"{SVG}title") is not None]
    widths = np.array([float(one.get("width")) for one in parts]).reshape(2, 5)
    counts = np.array([made.figures[name].together for name in ("plain", ODD)])
    np.testing.assert_allclose(widths, 360 * counts / 70, atol=0.06)


def test_reliability_diagram_shows_each_bin(made):
    figures = made.figures[ODD].calibration
    bars = [
        one for one in shapes(made, "reliability-3", "rect") if one.find(f"{SVG}title") is not None
    ]
    filled = np.flatnonzero(figures.counts)
    assert len(bars) == 3 * len(filled) > 3
    columns = zip(filled, bars[::3], bars[1::3], bars[2::3], strict=True)
    for place, solid, gap, below in columns:
        ends = figures.accuracy[place], figures.confidence[place]
        assert float(solid.get("height")) == pytest.approx(258 * min(ends), abs=0.06)
        assert float(gap.get("height")) == pytest.approx(258 * abs(ends[0] - ends[1]), abs=0.06)
        tall = 44 * figures.counts[place] / figures.counts.max()
        assert float(below.get("height")) == pytest.approx(tall, abs=0.06)
        assert solid.find(f"{SVG}title").text.startswith(f"{figures.counts[place]} samples")


def test_table_of_changes_is_the_difference_of_the_confusions(made):
    difference = made.figures["plain"].confusion - made.figures["teacher"].confusion
    written = [one.text for one in shapes(made, "changes-1", "text") if one.get("class") == "cell"]
    expected = [
        f"{value:+d}".replace("-", "\N{MINUS SIGN}") for value in difference[difference != 0]
    ]
    assert written == expected
    better = np.where(np.eye(4, dtype=bool), difference > 0, difference < 0)
    expected = ["better" if one else "worse" for one in better[difference != 0]]
    assert set(expected) == {"better", "worse"}
    colors = [one.get("class") for one in shapes(made, "changes-1", "rect")]
    assert [one for one in colors if one in ("better", "worse")] == expected


def test_curves_are_the_histories(made, histories):
    lines = [
        [tuple(map(float, point.split(","))) for point in one.get("points").split()]
        for one in shapes(made, "curves", "polyline")
        if "curve" in one.get("class")
    ]
    teacher, student = (
        line for line in lines if line[0][0] != 2
    )  # those of the legend begin there
    values = histories["teacher"]["val_accuracy"] + histories[ODD]["val_accuracy"]
    across, heights = np.transpose([*teacher, *student])
    slope, base = np.polyfit(values, heights, 1)
    assert slope < 0
    np.testing.assert_allclose(slope * np.array(values) + base, heights, atol=0.06)
    np.testing.assert_allclose(np.diff(across[2:]), across[1] - across[0], atol=0.11)


def test_gallery_shows_the_mistakes_that_the_student_is_surest_of(made, data, logits):
    image = pytest.importorskip("PIL.Image")
    images, labels = data
    powers = np.exp(logits["plain"])
    sure = (powers / powers.sum(1, keepdims=True)).max(1)
    wrong = (logits["plain"].argmax(1) != labels) & (logits["teacher"].argmax(1) == labels)
    expected = sorted(np.flatnonzero(wrong), key=lambda place: -sure[place])[:5]
    assert len(expected) == 5
    text = made.markdown.read_text("utf-8")
    shown = re.findall(r"!\[sample (\d+)\]\(report_files/image-1-\d+\.png\)", text)
    assert [int(place) for place in shown] == expected
    folder = made.markdown.parent / "report_files"
    embedded = re.findall(r"base64,([^\"]+)", made.html.read_text("utf-8"))
    for number, place in enumerate(expected, 1):
        content = (folder / f"image-1-{number}.png").read_bytes()
        assert base64.b64decode(embedded[number - 1]) == content
        pixels = np.asarray(image.open(io.BytesIO(content)))
        assert pixels.shape == (112, 112)
        np.testing.assert_array_equal(pixels[::14, ::14], np.rint(255 * images[place, :, :, 0]))
        assert f"{100 * sure[place]:.0f} %" in text


def test_no_gallery_where_none_is_wanted(write, tmp_path):
    found = write(tmp_path, gallery=0, exports=None)
    assert "What it looks like" not in found.markdown.read_text("utf-8")
    assert not list((tmp_path / "report_files").glob("*.png"))


def test_a_new_report_replaces_the_old_one_or_leaves_it(write, data, tmp_path):
    folder = tmp_path / "page"
    write(folder, gallery=5, exports=None)
    (folder / "mine.txt").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="class indices"):
        write(folder, data=(data[0], np.full(70, 9)))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    write(folder, gallery=0, exports=None, title="Second")
    assert "<h1>Second</h1>" in (folder / "report.html").read_text("utf-8")
    names = {path.name for path in folder.iterdir()}
    assert names == {"report.md", "report.html", "report_files", "mine.txt"}
    assert not list(folder.rglob("*.png"))
