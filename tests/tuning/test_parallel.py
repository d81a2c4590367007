"""Tests of a search that a chief and two workers share, over the loopback."""

import json
from pathlib import Path

import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("parallel_search.py")


def start(folder, how):
    """Starts a chief and two workers, and returns these programs by name."""
    (port,) = programs.free_ports(1)
    common = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    running = {}
    for role in ("chief", "first", "second"):
        environment = {**common, "KERASTUNER_TUNER_ID": role}
        running[role] = programs.Program(PROGRAM, folder, how, environment=environment)
    return running


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    running = start(folder, "failing")
    try:
        ended = {role: program.ended(300) for role, program in running.items()}
    finally:
        for program in running.values():
            program.kill()
    for role, done in ended.items():
        assert done.returncode == 0, f"{role}: {done.stderr}"
    return folder, {role: (done.stdout, done.stderr) for role, done in ended.items()}


def test_two_workers_share_the_trials_and_the_chief_has_all_results(shared):
    folder, told = shared
    found = json.loads(told["chief"][0].splitlines()[-1])
    rows = found["rows"]
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2", "3"]
    tried = [
        float(line)
        for role in ("first", "second")
        for line in (folder / f"{role}.log").read_text().splitlines()
    ]
    assert sorted(tried) == sorted(row["temperature"] for row in rows)
    assert not (folder / "chief.log").exists()
    assert found["accuracy"] == pytest.approx(rows[0]["score"], abs=1e-7)


def test_a_failure_in_a_worker_is_told_there_and_by_the_chief(shared):
    folder, told = shared
    rows = json.loads(told["chief"][0].splitlines()[-1])["rows"]
    assert [row["status"] for row in rows] == ["COMPLETED"] * 3 + ["FAILED"]
    assert rows[-1]["error"] == "RuntimeError: no memory"
    assert "1 of 4 trials of the search failed" in told["chief"][1]
    assert "RuntimeError: no memory" in told[(folder / "fails").read_text()][1]


def test_a_worker_has_no_results(shared):
    _, told = shared
    for role in ("first", "second"):
        assert "get results and the best student there" in told[role][0]
        assert f"in the worker '{role}'" in told[role][0]


def temperatures(folder, role):
    return [float(line) for line in (folder / f"{role}.log").read_text().splitlines()]


def test_a_killed_worker_loses_its_own_trial_only_and_one_process_goes_on(tmp_path):
    running = start(tmp_path, "killed")
    try:
        assert running["second"].ended(300).returncode == -9
        assert running["first"].ended(300).returncode == 0
    finally:
        for program in running.values():
            program.kill()
    done = programs.run(PROGRAM, tmp_path, "alone", timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["status"] for row in rows] == ["COMPLETED"] * 4
    assert len(temperatures(tmp_path, "first")) == 3
    assert temperatures(tmp_path, "alone") == temperatures(tmp_path, "second")
