"""The benchmark of the largest logits runs, and its rows fit together."""

import pytest

pytestmark = pytest.mark.slow


def test_rows_of_every_way_to_learn(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    sizes = ["--vocabulary=300", "--width=64", "--layers=1", "--batch=2", "--tokens=8"]
    sizes += ["--texts=4", "--top_k=16", "--rounds=2", "--steps=1"]
    run_benchmark("speed.top_k_cache", *sizes, f"--output={output}")

    rows = {row["contender"]: row for row in common.read_rows(output)}
    assert list(rows) == ["labels", "top-k", "top-k, renormalized", "all logits"]
    assert [row.get("wanted") for row in rows.values()] == [None, 1.05, None, None]
    for row in rows.values():
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
        assert (row["vocabulary"], row["top_k"], row["tokens"]) == (300, 16, 8)
    # 17 log probabilities and 16 classes of two bytes each, and what files have besides.
    assert 66 <= rows["top-k"]["bytes_per_token"] <= 66 + 30
    assert 600 <= rows["all logits"]["bytes_per_token"] <= 600 + 30
