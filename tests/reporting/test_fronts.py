"""Quality over cost: each point is where its numbers say, and the line goes through the best."""

import itertools
import types
from xml.etree import ElementTree

import numpy as np
import pytest

from modreduce_keras.pareto import front
from modreduce_keras.reporting import fronts
from modreduce_keras.reporting.fronts import Point, Scale

SVG = "{http://www.w3.org/2000/svg}"


def shapes(picture, tag):
    return ElementTree.fromstring(picture.standalone()).findall(f".//{SVG}{tag}")


def marks(picture, kind):
    """Returns where the points of a colour are, and what they say."""
    found = {}
    for one in shapes(picture, "circle"):
        if kind in one.get("class").split() and one.find(f"{SVG}title") is not None:
            found[one.find(f"{SVG}title").text] = float(one.get("cx")), float(one.get("cy"))
    return found


def test_front_equals_a_sweep_from_the_cheapest(random):
    points = random.integers(0, 12, size=(60, 2)).tolist()
    best, expected = np.inf, []
    for cost in sorted({cost for cost, _ in points}):
        least = min(value for own, value in points if own == cost)
        if least < best:
            best = least
            expected += [index for index, one in enumerate(points) if one == [cost, least]]
    assert front(points) == sorted(expected)
    assert front([]) == []


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_points_are_where_their_numbers_say(sign):
    costs, qualities = [2.0, 8.0, 30.0, 300.0, 31.0], [0.5, 0.8, 0.7, 0.9, 0.2]
    points = [
        Point(f"p{index}", "0", cost, sign * quality)
        for index, (cost, quality) in enumerate(zip(costs, qualities, strict=True))
    ]
    scale = Scale("KiB", "score", str, sign, is_share=False, limit=100.0)
    picture = fronts.picture("name", "title", "caption", points, scale)
    found = marks(picture, "s0")
    said = [
        f"p{index}: {sign * quality:.4g}, {cost}"
        for index, (cost, quality) in enumerate(zip(costs, qualities, strict=True))
    ]
    across, heights = np.transpose([found[one] for one in said])
    for places, values in ((across, np.log(costs)), (heights, sign * np.array(qualities))):
        slope, base = np.polyfit(values, places, 1)
        np.testing.assert_allclose(slope * values + base, places, atol=0.06)
    assert set(marks(picture, "faint")) == {said[2], said[4]}
    (line,) = [one for one in shapes(picture, "polyline") if one.get("class") == "dashed"]
    corners = [tuple(map(float, one.split(","))) for one in line.get("points").split()]
    best = [0, 1, 3]
    expected = [(across[0], heights[0])]
    for before, after in itertools.pairwise(best):
        expected += [(across[after], heights[before]), (across[after], heights[after])]
    np.testing.assert_allclose(corners[:-1], expected, atol=0.06)
    assert corners[-1] == (350.0, corners[-2][1])


def test_a_student_with_a_file_stands_as_the_file(made):
    figures = list(made.figures.values())
    (size,) = fronts.of_networks(figures, dict.fromkeys(made.figures, "0"))  # one file has a time
    names = {said.split(": ")[0] for said in marks(size, "s0")}
    assert names == {"teacher", "<i>odd</i> | student_2"}
    (square,) = [one for one in shapes(size, "rect") if one.find(f"{SVG}title") is not None]
    assert square.find(f"{SVG}title").text.startswith("plain.tflite: ")


def test_times_are_of_one_runtime(made):
    plain, file = made.figures["plain"], made.figures["plain.tflite"]
    figures = [plain, file, file._replace(name="int8"), made.figures["teacher"]]
    kinds = {one.name: "0" for one in figures}
    size, time = fronts.of_networks(figures, kinds)
    assert len(shapes(size, "circle")) == 2  # the teacher, and in the legend
    assert not shapes(time, "circle")
    size, time = fronts.of_networks([plain, figures[-1]], kinds)
    assert {one.split(": ")[0] for one in marks(time, "s0")} == {"plain", "teacher"}
    assert fronts.of_networks([plain], kinds) == []


@pytest.mark.parametrize(("kind", "field"), [("regression", "error"), ("embedding", "agreement")])
def test_numbers_are_better_where_the_error_is_less(kind, field, made):
    bare = made.figures["plain"]._replace(kind=kind, accuracy=None, interval=None, agreement=None)
    several = [
        bare._replace(name=str(number), size=1024 * size, **{field: value})
        for number, (size, value) in enumerate([(1, 0.5), (2, 0.4), (4, 0.6)])
    ]
    size, _ = fronts.of_networks(several, dict.fromkeys("012", "0"))
    expected = {"error": ["2: 0.6, 4.0 KiB"], "agreement": ["1: 40.0 %, 2.0 KiB"]}[field]
    assert list(marks(size, "faint")) == expected


def test_trials_of_a_search_are_on_the_page(write, tmp_path):
    costs = {"kib": 20.0, "milliseconds": 0.5, "multiply_adds": 1e3, "epochs": 9, "refused": ""}
    rows = [
        {"width": 8, **costs, "score": 0.9},
        {"width": 4, **costs, "kib": 10.0, "score": 0.8},
        {"width": 2, **costs, "kib": 15.0, "score": 0.7},
        {"width": 99, **costs, "kib": None, "score": None, "refused": "kib 99, over 50"},
    ]
    search = {"objective": "val_accuracy", "direction": "max", "budget": {"kib": 50.0}}
    trials = types.SimpleNamespace(rows=rows, **search)
    size, time = fronts.of_trials(trials)
    assert set(marks(size, "s0")) - set(marks(size, "faint")) == {
        "width 8: 90.0 %, 20.0 KiB",
        "width 4: 80.0 %, 10.0 KiB",
    }
    assert "budget" in size.body
    assert "budget" not in time.body
    text = write(tmp_path, trials=trials, histories=None).markdown.read_text("utf-8")
    assert "4 students of a family: 1 over the budget (kib 50), 3 trained" in text
    assert "report_files/trials_kib.svg" in text
