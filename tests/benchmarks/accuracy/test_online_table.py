"""The table of online methods: every method trains, runs resume, and numbers are what they say."""

from functools import partial

import numpy as np
import pytest

from modreduce_keras.registry import components

pytestmark = pytest.mark.slow

TINY = ["--epochs=1", "--teacher_epochs=1", "--labels=64"]
# A student, whole peers with and without an ensemble, branches with a leader, and a teacher.
METHODS = ["kd", "peers/mutual", "branches/okddip", "modreduce/weighted_average"]


@pytest.fixture
def online_table():
    from benchmarks.accuracy import online_table

    return online_table


@pytest.fixture
def setting():
    return {"epochs": 3, "labels": 320, "learning_rate": 0.01, "online_weight": 0.6}


@pytest.fixture
def run(run_benchmark, tmp_path):
    files = [f"--teacher={tmp_path / 'teacher.keras'}", f"--output={tmp_path / 'rows.jsonl'}"]
    return partial(run_benchmark, "accuracy.online_table", *TINY, "--seeds=1", *files)


def test_rows_and_what_a_second_run_adds(run, tmp_path):
    from benchmarks import common

    methods = [f"--methods={name}" for name in METHODS]
    run(*methods)
    rows = common.read_rows(tmp_path / "rows.jsonl")
    assert [row["method"] for row in rows] == METHODS
    for row in rows:
        assert (row["seed"], row["epochs"], row["labels"], row["online_weight"]) == (1, 1, 64, 0.7)
        assert row["seconds"] > 0
        # Counts of 1,500 and 2,000 images.
        assert row["validation"] * 1500 == pytest.approx(round(row["validation"] * 1500), abs=1e-3)
        assert row["test"] * 2000 == pytest.approx(round(row["test"] * 2000), abs=1e-3)
        assert row["command"].startswith("python -m benchmarks.accuracy.online_table --epochs=1")
        assert {"commit", "tensorflow", "keras", "device"} <= row.keys()
    alone, mutual, okddip, modreduce = rows
    assert alone["peer"] is alone["softmax_ensemble_test"] is alone["ensemble_test"] is None
    assert mutual["ensemble_test"] is None
    assert mutual["softmax_ensemble_test"] > 0
    assert okddip["peer"] == "branch_3"
    assert okddip["ensemble_test"] > 0
    assert modreduce["peer"] in ("response", "feature", "relation")
    assert [row["teacher_passes"] for row in rows] == [1, 0, 0, 1]

    printed = run(*methods, "--methods=plain")
    again = common.read_rows(tmp_path / "rows.jsonl")
    assert again[:4] == rows
    assert [row["method"] for row in again[4:]] == ["plain"]
    mean = 100 * np.mean([row["validation"] for row in again])
    assert f"best peers {mean:.2f} % in validation, the mean of 5 trainings" in printed


def test_other_settings_are_other_runs(online_table):
    row = {"method": "kd", "seed": 1, **dict.fromkeys(online_table.SETTING, 1), "test": 0.5}
    assert online_table.identity({**row, "test": 0.6}) == online_table.identity(row)
    for name in ("method", "seed", *online_table.SETTING):
        assert online_table.identity({**row, name: 2}) != online_table.identity(row)


ALONE = {"plain", "kd", "dkd", "dist", "dist and hint", "dist and hint, weight 1", "shake"}
"""Methods with one student."""


def test_every_aggregator_is_there(online_table):
    used = {name.split("/")[-1] for name in online_table.METHODS}
    assert used - ALONE - {"none"} == set(components("aggregator"))


def test_every_method_is_built_and_its_passes_counted(online_table, setting):
    teacher = online_table.network("teacher", online_table.TEACHER_WIDTHS)
    passes = {n: make(teacher, setting).passes for n, make in online_table.METHODS.items()}
    # Multiply-adds of a student: 14,112 in the first stage, and 130,496 after it.
    head = 130_496 / (14_112 + 130_496)
    assert passes.pop("branches/one") == pytest.approx(1 + 2 * head)
    assert passes.pop("branches/okddip") == pytest.approx(1 + 3 * head)
    # Three views through the trunk, and three past selves.
    assert passes.pop("branches/pcl") == pytest.approx(6)
    twice = {"peers/codistillation", "modreduce/pcl"}
    assert {name for name, number in passes.items() if number == 6} == twice
    assert {name for name, number in passes.items() if number == 1} == ALONE
    assert {n for n in passes.values()} == {1, 3, 6}


def test_online_weights_grow_to_the_same(online_table, setting):
    def weight(method, step):
        distiller = online_table.METHODS[method](teacher, setting).model
        distiller.step.assign(step)
        return float(distiller.online_weight)

    teacher = online_table.network("teacher", online_table.TEACHER_WIDTHS)
    # 3 epochs of 10 steps: the ramp-up ends at step 8, the growth at step 30.
    assert weight("peers/mean", 0) == pytest.approx(0.6 * np.exp(-5))
    assert weight("peers/mean", 4) == pytest.approx(0.6 * np.exp(-5 / 4))
    assert weight("branches/one", 8) == pytest.approx(0.6)
    assert weight("modreduce/mutual", 0) == pytest.approx(0.01)
    assert weight("modreduce/mutual", 15) == pytest.approx(0.01 * 60**0.5)
    assert weight("modreduce/mutual", 30) == pytest.approx(0.6)
    assert weight("peers/none", 30) == weight("modreduce/none", 30) == 0


def test_unknown_methods_are_refused(run, tmp_path):
    with pytest.raises(AssertionError, match=r"Received: \['unknown'\]"):
        run("--methods=kd", "--methods=unknown")
