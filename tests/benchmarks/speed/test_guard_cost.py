"""The benchmark of the guard's cost runs, and would notice a guard that trains differently."""

import pytest

pytestmark = pytest.mark.slow


def test_one_row_for_each_contender(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    sizes = ["--rows=200", "--negatives=8", "--batch=4", "--rounds=1", "--student=resnet8"]
    run_benchmark("speed.guard_cost", *sizes, f"--output={output}")

    rows = common.read_rows(output)
    assert [(row["kind"], row["contender"]) for row in rows] == [
        (kind, name)
        for kind in ("memory", "queue", "temporal")
        for name in ("without the guard", "with the guard")
    ]
    for row in rows:
        assert row["command"].startswith("python -m benchmarks.speed.guard_cost --rows=200")
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
        assert ("ratio_to" in row) == (row["contender"] == "with the guard")


def test_contenders_that_train_differently_are_refused():
    from benchmarks.speed import guard_cost

    same = {name: (None, lambda: 1.0) for name in guard_cost.CONTENDERS}
    guard_cost.require_agreement(same)
    for loss in (1.01, float("nan")):
        with pytest.raises(RuntimeError, match="train differently"):
            guard_cost.require_agreement({**same, "with the guard": (None, lambda x=loss: x)})
