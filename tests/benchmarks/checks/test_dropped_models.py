"""What trainings of new models leave behind: a row for each contender, and its table."""

import pytest

from benchmarks import common
from benchmarks.checks.dropped_models_table import dropped_models
from tests.support.about import ABOUT


@pytest.mark.slow
def test_a_distiller_leaves_no_weights_behind(forgets_flags, tmp_path):
    from benchmarks.checks import dropped_models as program

    output = tmp_path / "rows.jsonl"
    # 4 MiB of weights in each of the two models.
    arguments = ["--models=8", "--width=1000", f"--output={output}"]
    program.FLAGS(["dropped_models", "--contender=distiller", *arguments])
    program.main(None)
    (row,) = common.read_rows(output)
    assert (row["contender"], row["models"], row["width"]) == ("Distiller", 8, 1000)
    weights = 2 * (16 * 1000 + 1000 * 1000 + 1000 * 10 + 2 * 1000 + 10) * 4 / 2**20
    assert row["weights_mib"] == pytest.approx(weights, abs=0.05)
    assert row["mib_per_model"] < weights / 4


def test_the_table_has_the_latest_row_of_each_contender():
    about = {**ABOUT, "command": "python -m benchmarks.checks.dropped_models"}
    sizes = {"models": 20, "width": 2000, "weights_mib": 15.5}
    rows = [
        {"contender": name, "mib_per_model": growth, "mib": 800.4, **sizes, **about}
        for name, growth in (("Distiller", 9.0), ("Keras alone", 15.52), ("Distiller", 0.04))
    ]
    lines = dropped_models(rows).splitlines()
    assert "| Keras alone | 15.5 | +15.5 | 800 |" in lines
    assert "| Distiller | 15.5 | +0.0 | 800 |" in lines
    assert not any("+9.0" in line for line in lines)
