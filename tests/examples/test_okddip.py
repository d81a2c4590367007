"""The OKDDip example at its smallest size: the group is told, and its leader is saved."""

import re
from pathlib import Path

import keras
import pytest

import modreduce_keras as mr
from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "okddip.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("okddip") / "results"
    tiny = ("--epochs=2", "--images=64", "--seeds=2", f"--output={folder}")
    return folder, programs.printed(PROGRAM, *tiny)


def test_prints_the_mean_over_seeds_for_each_student(run):
    _, printed = run
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    assert rows[0] == ["student", "test accuracy, %"]
    names = ["alone", "peer_1", "peer_2", "peer_3", "leader", "mean of the peers"]
    assert [name for name, _ in rows[1:]] == names
    for name in ("alone", "leader"):
        values = [float(value) for value in re.findall(rf"{name} ([\d.]+) %", printed)]
        (shown,) = [row[1] for row in rows if row[0] == name]
        assert len(values) == 2
        assert float(shown.split(" ± ")[0]) == pytest.approx(sum(values) / 2, abs=0.11)


def test_tells_how_diverse_the_peers_are(run):
    _, printed = run
    found = re.findall(r"diversity ([\d.]+) in the first epoch, ([\d.]+) in the last", printed)
    assert len(found) == 2
    assert all(0 < float(value) < 2**0.5 for pair in found for value in pair)


def test_saves_the_last_leader_as_a_plain_model(run):
    folder, printed = run
    leader = keras.saving.load_model(folder / "leader.keras")
    assert leader.count_params() == 6386
    assert "Saved the leader" in printed
    assert "6,386 parameters" in printed
    images, classes = mr.data.load_sample()[1]
    accuracy = 100 * (leader.predict(images, verbose=0).argmax(axis=1) == classes).mean()
    last = float(re.findall(r"leader ([\d.]+) %", printed)[-1])
    assert last == pytest.approx(accuracy, abs=0.051)
