"""The self-distillation example at its smallest size: tables, picture, network to deploy."""

import struct
from pathlib import Path

import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "self_distillation.py"
DEPLOYED = """
import sys, keras, numpy, modreduce_keras
network = keras.saving.load_model(sys.argv[1])
answers = network.predict(numpy.zeros((3, 28, 28, 1)), verbose=0)
print(round(float(network.threshold), 4), answers.shape)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("self_distillation") / "results"
    tiny = ("--widths=4,4,4,8", "--epochs=1", "--images=64", "--seeds=2", "--repeats=1")
    return folder, programs.printed(PROGRAM, *tiny, f"--output={folder}")


def table(printed, first):
    """Returns the rows of the table whose first column has a name."""
    lines = printed.splitlines()
    (start,) = [place for place, line in enumerate(lines) if line.startswith(f"| {first} |")]
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(line.strip("| ").split(" | "))
    return [rows[0], *rows[2:]]


def test_prints_the_accuracy_of_every_classifier(run):
    header, *rows = table(run[1], "classifier")
    assert header[1:4] == ["alone", "exits, labels only", "self-distillation"]
    assert [row[0] for row in rows] == ["stage1", "stage2", "final", "ensemble"]
    for row in rows:
        assert (row[1] == "-") == (row[0] != "final")
        assert all("±" in cell for cell in row[2:4])
    costs = [int(row[5].replace(",", "")) for row in rows]
    assert costs == sorted(costs)


def test_accuracies_are_means_over_the_seeds(run):
    _, *rows = table(run[1], "classifier")
    for column, method in enumerate(("alone", "exits, labels only", "self-distillation"), start=1):
        lines = [line for line in run[1].splitlines() if f", {method}: " in line]
        values = [float(line.partition(f"{method}: ")[2].split(" %")[0]) for line in lines]
        assert len(values) == 2
        shown = float(rows[2][column].split(" ± ")[0])
        assert shown == pytest.approx(sum(values) / 2, abs=0.11)


def test_prints_the_early_exit_curve(run):
    header, *rows = table(run[1], "threshold")
    assert header[1:4] == ["accuracy, %", "computation", "time"]
    assert header[4:] == ["stage1", "stage2", "final"]
    assert [row[0] for row in rows] == ["0.5", "0.7", "0.8", "0.9", "0.95", "0.99", "1"]
    computation = [float(row[2]) for row in rows]
    assert computation == sorted(computation)
    assert all(float(row[3]) > 0 for row in rows)
    for row in rows:
        assert sum(int(share.removesuffix(" %")) for share in row[4:]) == pytest.approx(100, abs=2)


def test_saves_a_picture_and_the_network_to_deploy(run, tmp_path):
    folder, _ = run
    head = (folder / "early_exit.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", head[16:24])) > 400
    program = tmp_path / "deployed.py"
    program.write_text(DEPLOYED)
    printed = programs.printed(program, folder / "early_exit.keras")
    assert printed.strip() == "0.9 (3, 10)"
