"""The benchmark of smaller students: its rows at tiny size, and its tables."""

import pytest

from tests.support.about import ABOUT

TINY = ["--labels=64", "--teacher_epochs=1", "--epochs=1", "--more_epochs=1", "--seeds=1"]
SETTINGS = {
    "labels": 1000,
    "teacher_epochs": 8,
    "epochs": 30,
    "more_epochs": 20,
    "rounding_epochs": 10,
    "teacher": 0.9,
    "command": "python -m benchmarks.accuracy.smaller.run",
    **ABOUT,
}


@pytest.mark.slow
def test_a_part_has_rows_and_is_not_run_again(tmp_path, capsys):
    from benchmarks import common
    from benchmarks.accuracy.smaller import run

    output = tmp_path / "smaller.jsonl"
    run.FLAGS(["program", *TINY, "--parts=low_rank", f"--output={output}"])
    run.main(None)
    made, scratch = rows = common.read_rows(output)
    assert [(row["contender"], row["level"]) for row in rows] == [("made", 8), ("scratch", 8)]
    assert made["multiply_adds"] == scratch["multiply_adds"] < 849_680
    assert made["parameters"] == scratch["parameters"] < 37_550
    run.main(None)
    assert common.read_rows(output) == rows
    assert capsys.readouterr().out.count("teacher:") == 2


def of_sparsity(contender, level, seed, accuracy):
    row = {"part": "sparsity", "contender": contender, "level": level, "gzipped": 2048}
    return {**row, **SETTINGS, "seed": seed, "accuracy": accuracy}


def test_gains_are_those_of_the_same_seed():
    from benchmarks.accuracy.smaller.table import SMALLER

    accuracies = {"labels": (0.7, 0.8), "kd": (0.8, 0.84), "modreduce": (0.71, 0.83)}
    rows = [
        of_sparsity(way, level, seed, value - (level or 0.0))
        for way, values in accuracies.items()
        for level in (None, 0.0, 0.5)
        for seed, value in enumerate(values)
    ]
    files, made_of = SMALLER["smaller_sparsity"]
    assert files == ("smaller",)
    lines = made_of({"smaller": rows}).splitlines()
    # The deviations of 10 and 4, and of 1 and 3.
    gains = "+7.0 ± 4.2 | +2.0 ± 1.4 | 2.0 |"
    assert lines[2] == f"| 0 % | 75.0 ± 7.1 | 82.0 ± 2.8 | 77.0 ± 8.5 | {gains}"
    assert lines[3] == f"| 50 % | 25.0 ± 7.1 | 32.0 ± 2.8 | 27.0 ± 8.5 | {gains}"
    assert lines[5] == "Seeds: 2. The teacher: 90.0 %."
    assert made_of({"smaller": []}) == "*Not measured yet.*"
