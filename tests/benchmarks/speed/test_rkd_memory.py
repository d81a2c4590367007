"""The memory benchmark of RKD runs, and would notice two forms that differ."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow

CONTENDERS = [
    "angles, as published",
    "angles, ours",
    "distances and angles, as published",
    "distances and angles, ours",
]


@pytest.fixture
def rkd_memory():
    from benchmarks.speed import rkd_memory

    return rkd_memory


def test_one_row_for_each_contender_and_width(run_benchmark, tmp_path):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    sizes = ["--batch=40", "--features=3", "--features=300", "--rounds=1"]
    run_benchmark("speed.rkd_memory", *sizes, f"--output={output}")

    rows = common.read_rows(output)
    assert [(row["features"], row["contender"]) for row in rows] == [
        (features, name) for features in (3, 300) for name in CONTENDERS
    ]
    for row in rows:
        assert row["command"].startswith("python -m benchmarks.speed.rkd_memory --batch=40")
        assert row["ms_p25"] <= row["ms_median"] <= row["ms_p75"]
    compared = {row["contender"]: row["ratio_to"] for row in rows if "ratio_to" in row}
    assert compared == {CONTENDERS[1]: CONTENDERS[0], CONTENDERS[3]: CONTENDERS[2]}
    # Differences of 40 · 40 · 300 float32 are 1.8 MiB, and the published form has several.
    published, ours = (row["mib"] for row in rows[4:6])
    assert published > 2 * 1.8
    assert ours < published


def test_forms_that_differ_are_refused(rkd_memory):
    value, gradient = np.float32(1.0), np.ones((2, 3), "float32")
    same = {name: lambda: (value, gradient) for name in CONTENDERS}
    rkd_memory.require_agreement(same)
    for other in ((value * 1.001, gradient), (value, gradient * 1.001), (np.nan, gradient)):
        with pytest.raises(RuntimeError, match="of 'angles, ours' and 'angles, as published' diff"):
            rkd_memory.require_agreement({**same, "angles, ours": lambda other=other: other})
