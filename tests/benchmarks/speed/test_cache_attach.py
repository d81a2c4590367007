"""The benchmark of how long a cache takes to open runs, and its rows fit together."""

import pytest

pytestmark = pytest.mark.slow


def test_rows_of_a_cache_in_memory_and_on_the_disk(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    sizes = ["--gigabytes=0.0004", "--logits=10", "--rounds=2"]
    run_benchmark("speed.cache_attach", *sizes, f"--output={output}")
    rows = common.read_rows(output)
    assert [row["state"] for row in rows] == ["warm", "cold"]
    for row in rows:
        assert (row["samples"], row["files"], row["wanted"]) == (10_000, 5, 2.0)
        assert 0 < row["seconds_p25"] <= row["seconds_median"] <= row["seconds_p75"]
