"""The benchmark of the teacher cache runs, and its rows fit together."""

import pytest

pytestmark = pytest.mark.slow


def test_rows_of_every_way_to_learn(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    sizes = ["--student=resnet8", "--teacher=resnet8", "--batch=4", "--images=12"]
    sizes += ["--rounds=2", "--steps=1"]
    run_benchmark("speed.teacher_cache", *sizes, f"--output={output}")

    rows = {row["contender"]: row for row in common.read_rows(output)}
    assert list(rows) == ["labels", "teacher", "cache", "cache, tap"]
    assert [row.get("wanted") for row in rows.values()] == [None, None, 1.05, None]
    for row in rows.values():
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
        assert (row["images"], row["views"], row["batch"]) == (12, 2, 4)
    # 100 logits, and 8 x 8 x 64 values of the tap, in 4 bytes each; and what files have besides.
    added = rows["cache, tap"]["bytes_per_view"] - rows["cache"]["bytes_per_view"]
    assert added == pytest.approx(4 * 8 * 8 * 64, abs=60)
    assert 4 * 100 <= rows["cache"]["bytes_per_view"] <= 4 * 100 + 100


def test_photographs_without_a_hint(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    sizes = ["--student=MobileNet:0.25", "--teacher=MobileNet:0.25", "--size=64", "--at="]
    sizes += ["--batch=2", "--images=4", "--rounds=1", "--steps=1"]
    run_benchmark("speed.teacher_cache", *sizes, f"--output={output}")
    rows = common.read_rows(output)
    assert [row["contender"] for row in rows] == ["labels", "teacher", "cache"]
    assert {row["size"] for row in rows} == {64}
