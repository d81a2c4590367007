"""The teacher assistant example at its smallest size: the chain is walked from end to end."""

from pathlib import Path

import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "teacher_assistant.py"
ROWS = [
    ["teacher", "labels"],
    ["assistant1", "teacher"],
    ["assistant2", "assistant1"],
    ["student", "labels"],
    ["student", "teacher"],
    ["student", "assistant2"],
]


@pytest.fixture(scope="module")
def printed():
    sizes = ("--teacher=8,16", "--assistant=6,12", "--assistant=5,10", "--student=4,8")
    tiny = ("--teacher_epochs=1", "--teacher_images=256", "--epochs=1", "--images=64", "--seeds=2")
    return programs.printed(PROGRAM, *sizes, *tiny)


def test_prints_a_row_for_each_network_and_teacher(printed):
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    assert rows[0] == ["network", "taught by", "test accuracy, %", "parameters"]
    assert [row[:2] for row in rows[1:]] == ROWS
    sizes = [int(row[3].replace(",", "")) for row in rows[1:]]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == sizes[4] == sizes[5]


def test_says_whether_an_assistant_is_likely_to_help(printed):
    assert "\nteacher: " in printed
    assert "% of other data\n" in printed


def test_students_are_repeated_from_each_seed_and_averaged(printed):
    for network, teacher in ROWS:
        start = f"{network}, taught by {teacher}: "
        lines = [line for line in printed.splitlines() if line.startswith(start)]
        percents = [float(line.removeprefix(start).removesuffix(" %")) for line in lines]
        assert len(percents) == (2 if network == "student" else 1)
        (row,) = [line for line in printed.splitlines() if f"| {network} | {teacher} |" in line]
        mean = float(row.split(" | ")[2].split(" ± ")[0])
        assert mean == pytest.approx(sum(percents) / len(percents), abs=0.11)
        assert ("±" in row) == (network == "student")
