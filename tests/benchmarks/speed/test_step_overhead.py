"""The overhead benchmark runs, and would notice a step that does other work."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow

CONTENDERS = [
    "student alone",
    "KD, by hand",
    "KD, ours",
    "KD, ours, train_on_batch",
    "KD, keras.distillation",
    "KD + hint + RKD, by hand",
    "KD + hint + RKD, ours",
    "KD + feature, ours",
    "KD + feature, keras.distillation",
]


def test_networks_of_keras_applications_are_timed_with_kd_alone(run_benchmark, tmp_path):
    output = tmp_path / "rows.jsonl"
    sizes = ["--size=32", "--batch=2", "--rounds=1", "--steps=1"]
    run_benchmark(
        "speed.step_overhead", "--pair=MobileNet:MobileNet:0.25", *sizes, f"--output={output}"
    )

    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [row["contender"] for row in rows] == CONTENDERS[:3]
    assert {(row["pair"], row["size"]) for row in rows} == {("MobileNet:MobileNet:0.25", 32)}


def test_one_row_for_each_contender(run_benchmark, tmp_path):
    output = tmp_path / "rows.jsonl"
    sizes = ["--pair=convnet:convnet", "--batch=4", "--rounds=1", "--steps=1"]
    run_benchmark("speed.step_overhead", *sizes, f"--output={output}")

    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [row["contender"] for row in rows] == CONTENDERS
    compared = {row["contender"]: row["ratio_to"] for row in rows if "ratio_to" in row}
    assert compared == {
        "KD, ours": "KD, by hand",
        "KD, ours, train_on_batch": "KD, by hand",
        "KD, keras.distillation": "KD, ours",
        "KD + hint + RKD, ours": "KD + hint + RKD, by hand",
        "KD + feature, keras.distillation": "KD + feature, ours",
    }
    for row in rows:
        assert row["pair"] == "convnet:convnet"
        assert (row["batch"], row["rounds"], row["steps"], row["seed"]) == (4, 1, 1, 0)
        assert row["command"].startswith("python -m benchmarks.speed.step_overhead --pair=convnet")
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
        assert {"date", "commit", "device", "python", "tensorflow", "keras"} <= row.keys()


@pytest.fixture
def overhead():
    from benchmarks.speed import step_overhead

    return step_overhead


class Students:
    """Stands for a pair whose students have moved as the test says."""

    def movement(self, student):
        return np.array(student, "float32")


def contenders(overhead, other=(), **changes):
    """Returns contenders that all log and move alike, but for those named in `other`."""
    usual = {"logs": {"loss": 2.0, "ce": 2.0}, "moved": [1.0, -1.0]}
    made = {}
    for name in [*overhead.RATIO_TO, *overhead.RATIO_TO.values()]:
        does = {**usual, **(changes if name in other else {})}
        made[name] = overhead.Contender(lambda does=does: does["logs"], does["moved"])
    return made


def test_equal_first_steps_pass(overhead):
    overhead.first_steps(Students(), contenders(overhead))


@pytest.mark.parametrize(
    "logs", [{"loss": 2.001, "ce": 2.0}, {"loss": 2.0}, {"loss": float("nan"), "ce": 2.0}]
)
@pytest.mark.parametrize("name", ["KD, ours", "KD + hint + RKD, ours"])
def test_other_logs_are_refused(overhead, name, logs):
    with pytest.raises(RuntimeError, match=r"ours' logs .*, but .*by hand' logs "):
        overhead.first_steps(Students(), contenders(overhead, [name], logs=logs))


def test_another_movement_is_refused(overhead):
    name = "KD, ours, train_on_batch"
    with pytest.raises(RuntimeError, match="'KD, ours, train_on_batch' moves the student diff"):
        overhead.first_steps(Students(), contenders(overhead, [name], moved=[1.0, -1.01]))


def test_keras_distillation_has_a_loss_of_its_own(overhead):
    name = "KD, keras.distillation"
    overhead.first_steps(Students(), contenders(overhead, [name], logs={"student_loss": 9.0}))
