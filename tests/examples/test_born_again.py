"""The born-again example at its smallest size: generations, ensembles and their table."""

from pathlib import Path

import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "born_again.py"


@pytest.fixture(scope="module")
def printed():
    tiny = ("--widths=4,8", "--generations=3", "--epochs=1", "--images=64", "--seeds=2")
    return programs.printed(PROGRAM, *tiny)


def test_prints_a_row_for_each_generation(printed):
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    assert rows[0] == [
        *("generation", "born again", "ensemble so far"),
        *("labels only", "ensemble so far"),
    ]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
    assert all("±" in cell for row in rows[1:] for cell in row[1:])
    # An ensemble of one is that one.
    assert rows[1][1] == rows[1][2]
    assert rows[1][3] == rows[1][4]


def test_every_generation_is_repeated_from_each_seed_and_averaged(printed):
    for taught, column in (("teacher", 1), ("labels", 3)):
        for generation in (1, 2, 3):
            end = f"taught by {taught}, {generation}: "
            lines = [line for line in printed.splitlines() if end in line]
            values = [float(line.partition(end)[2].removesuffix(" %")) for line in lines]
            assert len(values) == 2
            (row,) = [line for line in printed.splitlines() if line.startswith(f"| {generation} |")]
            mean = float(row.strip("| ").split(" | ")[column].split(" ± ")[0])
            assert mean == pytest.approx(sum(values) / 2, abs=0.11)
