"""The benchmark of fifty steps runs, and its rows say how far each term has come down."""

import pytest

pytestmark = pytest.mark.slow

# One plain, one staged, one without a teacher, one with a memory, one with networks of its own.
METHODS = {
    "kd": "joint",
    "fsp": "own",
    "confidence_penalty": "joint",
    "crd": "joint",
    "teacher_bounded": "joint",
}
PAIRS = {"teacher_bounded": ("narrow regressor", "wide regressor")}


@pytest.fixture(scope="module")
def rows(run_benchmark, tmp_path_factory):
    output = tmp_path_factory.mktemp("results") / "rows.jsonl"
    sizes = {
        "teacher": "resnet8",
        "teacher_epochs": 1,
        "trained_on": 48,
        "held_out": 20,
        "batch": 8,
        "steps": 6,
    }
    arguments = [f"--{name}={value}" for name, value in sizes.items()]
    arguments += [f"--methods={name}" for name in METHODS]
    run_benchmark("accuracy.fifty_steps", *arguments, f"--output={output}")
    return output


def test_one_row_for_each_method(rows):
    from benchmarks import common

    by_method = {row["method"]: row for row in common.read_rows(rows)}
    assert {name: row["stage"] for name, row in by_method.items()} == METHODS
    for name, row in by_method.items():
        networks = PAIRS.get(name, ("resnet8", "resnet8"))
        assert (row["student"], row["teacher"], row["steps"]) == (*networks, 6)
        if name == "confidence_penalty":
            assert row["factor"] is None
            assert row["before"] < row["after"] < 0
        else:
            assert row["factor"] == pytest.approx(row["before"] / row["after"], abs=1e-3)
    weights = {name: row["weight"] for name, row in by_method.items()}
    assert weights == {
        "kd": 1.0,
        "fsp": 50.0,
        "confidence_penalty": 0.1,
        "crd": 0.8,
        "teacher_bounded": 0.5,
    }
