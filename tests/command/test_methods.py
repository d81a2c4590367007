"""`modreduce methods`: every method is listed with its cost, and explained."""

import json

import pytest

from modreduce_keras.command import methods, program
from modreduce_keras.registry import components


def test_the_list_in_the_package_is_that_of_the_registry():
    listed = {one["name"]: one["class"] for one in methods.load()}
    assert listed == {name: cls.__name__ for name, cls in components("loss").items()}


def test_table_has_a_line_for_each_method(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert program.main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [
        line.split()[0] for line in lines if line.startswith("  ") and line.split()[0].islower()
    ]
    assert sorted(named) == sorted([*components("loss"), "time", "time", "time"])
    assert max(map(len, lines)) <= 90
    (line,) = [line for line in lines if line.startswith("  reviewkd ")]
    cost = next(one["cost"] for one in methods.load() if one["name"] == "reviewkd")
    assert f"{cost['times_kd']:.2f} x" in line
    assert f"{cost['extra_mib']:+d} MiB" in line


def test_kind_chooses(capsys):
    assert program.main(["methods", "--kind=relation", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = [name for name, cls in components("loss").items() if cls.kind == "relation"]
    assert [one["name"] for one in found] == expected


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("DIST", ["dist (response)", "--knowledge=dist\n", 'mr.Response("dist")']),
        (
            "hint",
            ["--knowledge=hint@LAYER or hint", 'mr.Feature("hint", at="LAYER")', "conv_regressor"],
        ),
        ("crd", ["in Python only", "the sample index", "MiB are held for good"]),
        ("gaussian_kd", ["not measured"]),
    ],
)
def test_one_is_explained(name, shown, capsys):
    assert program.main(["methods", name]) == 0
    text = capsys.readouterr().out
    for part in shown:
        assert part in text


def test_a_reader_that_leaves_ends_it(monkeypatch):
    def leave(given, words):
        raise BrokenPipeError

    class Out:
        def fileno(self):
            return handle.fileno()

    with open("/dev/null", "w") as handle:  # noqa: PTH123
        monkeypatch.setattr(methods, "run", leave)
        monkeypatch.setattr("sys.stdout", Out())
        assert program.main(["methods"]) == 0
