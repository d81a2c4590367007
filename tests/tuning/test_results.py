"""Tests of results: the order of rows, both tables, and what the pictures show."""

import csv

import matplotlib.pyplot
import numpy as np
import pytest

from modreduce_keras.tuning import pictures
from modreduce_keras.tuning.results import Results

ROWS = [
    {"trial": "0", "score": 0.5, "epoch": 1, "temperature": 2.0, "weight": 0.1, "kind": "a"},
    {"trial": "1", "error": "ValueError: a | b", "temperature": 1.0, "weight": 10.0, "kind": "b"},
    {"trial": "2", "score": 0.75, "epoch": 3, "temperature": 8.0, "weight": 1.0, "kind": "b"},
    {"trial": "3", "score": 0.625, "epoch": 2, "temperature": 4.0, "weight": 10.0, "kind": "a"},
]
for row in ROWS:
    row["status"] = "FAILED" if "error" in row else "COMPLETED"
NAMES = ["temperature", "weight", "kind"]


@pytest.fixture
def results():
    return Results(ROWS, NAMES, "val_accuracy", "max", ["temperature", "weight"])


def test_the_best_is_first_and_those_that_failed_are_last(results):
    assert [row["trial"] for row in results.rows] == ["2", "3", "0", "1"]
    assert [row["trial"] for row in results.completed()] == ["2", "3", "0"]
    least = Results(ROWS, NAMES, "val_loss", "min")
    assert [row["trial"] for row in least.rows] == ["0", "3", "2", "1"]


def test_csv_has_all_of_it(results, tmp_path):
    text = results.to_csv(tmp_path / "new" / "table.csv")
    with (tmp_path / "new" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == results.columns
    assert [row["trial"] for row in rows] == ["2", "3", "0", "1"]
    assert float(rows[1]["score"]) == 0.625
    assert rows[-1]["error"] == "ValueError: a | b"
    assert rows[-1]["score"] == ""
    assert results.to_csv() == text


def test_markdown_is_a_table_with_the_objective_in_its_head(results, tmp_path):
    text = results.to_markdown(tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text() == text
    lines = text.splitlines()
    assert lines[0].startswith("| trial | status | val_accuracy | epoch | temperature |")
    assert lines[2] == "| 2 | COMPLETED | 0.75 | 3 | 8 | 1 | b |  |"
    assert lines[-1] == r"| 1 | FAILED |  |  | 1 | 10 | b | ValueError: a \| b |"
    assert len(lines) == 6


def test_the_pair_shows_every_trial_at_its_place_with_the_best_and_the_failed_marked(results):
    axes, bar = pictures.pair(results, "temperature", "weight").axes
    done, best, failed = axes.collections
    np.testing.assert_allclose(done.get_offsets(), [[2, 0.1], [4, 10], [8, 1]])
    np.testing.assert_allclose(best.get_offsets(), [[8, 1]])
    np.testing.assert_allclose(failed.get_offsets(), [[1, 10]])
    low, high = matplotlib.pyplot.get_cmap("viridis")([0.0, 1.0])
    np.testing.assert_allclose(done.get_facecolors()[[0, 2]], [low, high])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("temperature", "weight")
    assert bar.get_ylabel() == "validation accuracy"
    assert bar.yaxis.get_major_formatter()(0.5).startswith("50")


def test_a_choice_has_its_names_on_the_axis(results):
    axes = pictures.pair(results, "kind", "weight").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    np.testing.assert_allclose(axes.collections[0].get_offsets()[:, 0], [0, 0, 1])


def test_parallel_lines_join_each_trials_values_and_its_score(results):
    axes = pictures.parallel(results).axes[0]
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 4]
    worst, middle, best = (line.get_ydata() for line in lines[:3])
    np.testing.assert_allclose(best, [1.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(middle, [0.5, 1.0, 0.0, 0.5])
    np.testing.assert_allclose(worst, [0.0, 0.0, 0.0, 0.0])
    widths = [line.get_linewidth() for line in lines[:3]]
    assert widths[2] > widths[0] == widths[1]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["temperature", "weight", "kind", "validation accuracy"]
    texts = {text.get_text() for text in axes.texts}
    assert {"2", "4", "8", "0.1", "10", "a", "b", "50.0%", "62.5%", "75.0%"} <= texts


def test_what_never_changes_or_is_not_everywhere_is_left_out_of_the_lines():
    rows = [dict(ROWS[0], fixed=1), dict(ROWS[2], fixed=1, part=0.5)]
    some = Results(rows, ["temperature", "fixed", "part"], "val_loss", "min")
    labels = pictures.parallel(some).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["temperature", "validation loss"]


def test_pictures_are_files(results, tmp_path):
    pair = results.plot_pair("temperature", "weight", tmp_path / "new" / "pair.png")
    parallel = results.plot_parallel(tmp_path / "parallel.png")
    for path in (pair, parallel):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_need_known_names_and_a_completed_trial(results, tmp_path):
    with pytest.raises(ValueError, match=r"among \['temperature', 'weight', 'kind'\].*'x'"):
        results.plot_pair("temperature", "x", tmp_path / "pair.png")
    none = Results(ROWS[1:2], NAMES, "val_accuracy", "max")
    for draw in (none.plot_parallel, lambda path: none.plot_pair("weight", "kind", path)):
        with pytest.raises(ValueError, match="No trial of the search has been completed, of 1"):
            draw(tmp_path / "none.png")


def test_many_values_are_labelled_at_the_ends_and_in_the_middle():
    rows = [dict(ROWS[0], temperature=2.0**power, score=power / 8) for power in range(7)]
    many = Results(rows, ["temperature"], "val_loss", "min", ["temperature"])
    texts = [text.get_text() for text in pictures.parallel(many).axes[0].texts]
    assert texts == ["1", "8", "64", "0", "0.375", "0.75"]
