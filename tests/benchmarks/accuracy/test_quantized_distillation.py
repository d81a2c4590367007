"""The benchmark of quantized distillation: its rows at tiny size, and what it says of them."""

import numpy as np
import pytest

TINY = ["--bits=4", "--seeds=1", "--teacher_epochs=1", "--epochs=1", "--more_epochs=1"]


@pytest.fixture
def program():
    from benchmarks.accuracy import quantized_distillation

    return quantized_distillation


@pytest.mark.slow
def test_every_contender_has_a_row(program, tmp_path, capsys):
    from benchmarks import common

    output = tmp_path / "rows.jsonl"
    program.FLAGS(["program", *TINY, "--labels=64", f"--output={output}"])
    program.main(None)
    rows = common.read_rows(output)
    assert [(row["contender"], row["bits"]) for row in rows] == [
        ("float32", 32),
        ("after training, TFLite's own", 8),
        ("after training", 4),
        ("aware, labels", 4),
        ("aware, distilled", 4),
        ("float32, distilled on", 32),
    ]
    assert all(row["agreement"] > 0.95 for row in rows)
    assert rows[0]["agreement"] == 1.0
    assert rows[0]["bytes"] > 2 * rows[2]["bytes"]
    assert capsys.readouterr().out.count("lost") == 6


def test_losses_are_those_of_the_same_seed(program):
    made = {"float32": (0.8, 0.9), "aware": (0.75, 0.88)}
    rows = [
        {"contender": name, "bits": 8, "seed": seed, "test": test}
        for name, tests in made.items()
        for seed, test in enumerate(tests)
    ]
    _, line = program.summary(rows)
    lost = np.array([5.0, 2.0])
    expected = f"81.50 %  lost {lost.mean():+.2f} ± {lost.std(ddof=1):.2f}"
    assert line.split(maxsplit=3) == ["aware,", "8", "bits", expected]
