"""The tables and the figure of CIFAR-100: means and deviations by hand, and what was published."""

import numpy as np
import pytest

from tests.support.about import ABOUT

RUN = {
    "protocol": "small",
    "pair": "a:b",
    "epochs": 2,
    "samples": 200,
    "augmentations": 3,
    "batch": 40,
    "rate": 0.05,
    "validation_images": 300,
    "validate_every": 1,
    "teacher_test": 0.7,
    "command": "python -m benchmarks.cifar100.train --seeds=2 --method=kd",
    **ABOUT,
}


def row(method, seed, test, **values):
    curve = {"validation": [test - 0.1, test], "loss": [2.0, 1.0]}
    own = {"method": method, "seed": seed, "test": test, "validation": test, "curve": curve}
    single = dict.fromkeys(("students_test", "ensemble_test", "softmax_ensemble_test"))
    cost = {"student_steps": 10, "teacher_forwards": 400, "seconds": 20.0}
    return {**RUN, **own, **single, **cost, **values}


def alone(seed, test):
    return row("plain", seed, test, teacher_forwards=0, seconds=10.0, teacher_test=None)


def modreduce(name, seed, test, **values):
    together = {"ensemble_test": 0.5, "softmax_ensemble_test": 0.6, "student_steps": 30}
    students = {"students_test": {"one": test, "other": test - 0.04}}
    return row(f"modreduce/{name}", seed, test, **students, **together, **values)


@pytest.fixture
def tables():
    from benchmarks.cifar100 import tables

    return tables


def test_the_small_table_has_means_deviations_and_costs(tables):
    made = tables.cifar100_small(
        [
            row("kd", 1, 0.9, epochs=1),  # of another setting
            modreduce("one", 2, 0.30),
            row("kd", 1, 0.25, validation=0.3),
            row("kd", 2, 0.27, validation=0.2),
            alone(1, 0.9),
            alone(1, 0.20),  # run again
            alone(2, 0.24),
        ]
    ).splitlines()
    # Standard deviations by hand: of .20 and .24, .028; of +5 and +3, 1.4.
    assert made[2:5] == [
        "| plain | 22.0 ± 2.8 |  | 24.0 |  |  |  | 1.0 | 0 | 2 |",
        # The best in validation, whatever the test says.
        "| kd | 26.0 ± 1.4 | +4.0 ± 1.4 | 25.0 |  |  |  | 1.0 | 2 | 2 |",
        "| modreduce/one | 30.0 | +6.0 |  | 28.0 | 50.0 | 60.0 | 3.0 | 2 | 1 |",
    ]
    assert made[6:9] == [
        "| student by kind of knowledge, % | one | other |",
        "|---|---|---|",
        "| modreduce/one | 30.0 | 26.0 |",
    ]
    assert made[10] == "a → b: the teacher is right on 70.00% of the test images."
    # Whatever methods a command named, it is one line.
    assert len(made) == 13
    assert made[12].startswith(
        "`python -m benchmarks.cifar100.train --seeds=2` (epochs 2, samples 200,"
    )


def test_the_middle_table_has_paired_gains_and_their_standard_errors(tables):
    rows = [
        *(alone(seed, test) for seed, test in enumerate((0.40, 0.42, 0.41), start=1)),
        *(row("dist", seed, test) for seed, test in enumerate((0.45, 0.48, 0.44), start=1)),
        row("at", 1, 0.30),
        row("sp", 4, 0.30),  # of a seed without labels alone
        modreduce("one", 1, 0.30),  # three students
    ]
    # As long as the protocol has it; a longer training is in another table.
    longer = row("dist", 1, 0.9, epochs=90)
    rows = [{**one, "epochs": 30, "student_steps": 15 * one["student_steps"]} for one in rows]
    made = tables.cifar100_middle([*rows, longer]).splitlines()
    # Gains of DIST are 5, 6 and 3: 14 / 3, and a deviation of 1.53, over the root of three.
    assert made[2:6] == [
        "| plain | 41.0 ± 1.0 |  |  | 42.0 |  |  | 1.0 | 0 | 3 |",
        "| at | 30.0 | -10.0 | 0 of 1 |  |  |  | 1.0 | 2 | 1 |",
        "| sp | 30.0 |  |  |  |  |  | 1.0 | 2 | 1 |",
        "| dist | 45.7 ± 2.1 | +4.7 ± 0.9 | 3 of 3 | 48.0 |  |  | 1.0 | 2 | 3 |",
    ]
    assert made[6].startswith("| modreduce/one | 30.0 | -10.0 | 0 of 1 |  | ")
    assert made[8] == "a → b: the teacher is right on 70.00% of the test images."
    assert len(made) == 11


def test_trainings_that_diverged_are_told_and_left_out_of_the_mean(tables):
    lost = {"test": None, "validation": None}
    some = [alone(1, 0.20), row("kd", 1, 0.25), row("kd", 2, 0.0) | lost]
    some.append(row("semckd", 1, 0.0) | lost)
    made = tables.cifar100_small(some).splitlines()
    assert made[3:5] == [
        "| kd | 25.0, 1 of 2 diverged | +5.0 |  |  |  |  | 1.0 | 2 | 2 |",
        "| semckd | 1 of 1 diverged |  |  |  |  |  | 1.0 | 2 | 1 |",
    ]
    some += [modreduce("one", 1, 0.0) | lost, modreduce("pcl", 1, 0.3)]
    made = tables.cifar100_paper([one | {"pair": "resnet56:resnet20"} for one in some])
    expected = "70.00 | 20.00 | 25.00, 1 of 2 diverged | 1 of 1 diverged |  | 30.00 (pcl) |"
    assert f"|  | ours | {expected}" in made


def test_the_papers_table_stands_without_rows(tables):
    from benchmarks.cifar100.published import PUBLISHED

    made = tables.cifar100_paper([]).splitlines()
    assert len(made) == 2 + len(PUBLISHED) + 2
    assert made[4] == (
        "| resnet56 → resnet20 | published | 72.34 | 69.06 | 71.70 | 70.91 | 71.72 | 71.99 |"
    )
    # As the paper says itself: 48.29 %, 25.5 % and 17.5 %.
    assert made[-1] == (
        "Average relative improvement of ModReduce, published: 48.3 % over KD, 25.5 % over SemCKD, "
        "17.5 % over CRD."
    )


def test_ours_stand_below_what_was_published(tables):
    pair = {"pair": "resnet56:resnet20", "protocol": "paper"}
    some = [
        alone(1, 0.69) | pair,
        row("kd", 1, 0.71) | pair,
        row("semckd", 1, 0.70) | pair,
        row("crd", 1, 0.73) | pair,
        # The better one in validation counts, whatever the test says.
        modreduce("one", 1, 0.74, validation=0.8) | pair,
        modreduce("pcl", 1, 0.75, validation=0.7) | pair,
        # Not the published method.
        modreduce("weighted_average, even", 1, 0.76, validation=0.9) | pair,
    ]
    made = tables.cifar100_paper(some).splitlines()
    assert made[5] == "|  | ours | 70.00 | 69.00 | 71.00 | 70.00 | 73.00 | 74.00 (one) |"
    # (74 - 71) / (71 - 69), (74 - 70) / (70 - 69), (74 - 73) / (73 - 69).
    assert (
        "Average relative improvement of ModReduce, ours: 150.0 % over KD, 400.0 % over SemCKD, "
        "25.0 % over CRD."
    ) in made
    few = tables.cifar100_paper(some[:2])
    assert "|  | ours | 70.00 | 69.00 | 71.00 |  |  |  |" in few
    assert ", ours:" not in few


def test_the_table_of_the_input(tables):
    times = {"ms_median": 1.234, "ms_p25": 1.2, "ms_p75": 1.3, "images_per_second": 51_864}
    ratio = {"ratio_to": "resnet8", "ratio_median": 94.4, "ratio_p25": 90.1, "ratio_p75": 99.9}
    same = {**RUN, **times, "batches": 100, "steps": 5, "rounds": 20}
    made = tables.cifar100_input(
        [
            {**same, "contender": "1 view", **ratio, "wanted": 10.0},
            {**same, "contender": "resnet8", "images_per_second": 550},
        ]
    ).splitlines()
    assert made[2:4] == [
        "| 1 view | 1.23 (1.20 to 1.30) | 51,864 | 94 (90 to 100) | ≥ 10 |",
        "| resnet8 | 1.23 (1.20 to 1.30) | 550 |  |  |",
    ]


def test_the_table_of_kills_has_the_latest_row_of_each_pair_and_method(tables):
    same = {**RUN, "method": "kd", "steps": 6, "steps_before": 2}
    made = tables.cifar100_kills(
        [
            {**same, "difference": 0.5},
            {**same, "difference": 0.0},
            {**same, "difference": 2.04e-7, "method": "crd"},
        ]
    ).splitlines()
    assert made[2:4] == ["| a → b | kd | 6 | 2 | 0 |", "| a → b | crd | 6 | 2 | 2e-07 |"]


def test_the_figure_shows_every_method(tables, tmp_path, monkeypatch):
    from matplotlib import figure

    from benchmarks import common
    from benchmarks.cifar100 import methods, plot

    rows = [
        row(name, seed, 0.2 + place / 100 + seed / 1000)
        for place, name in enumerate(methods.METHODS)
        for seed in (1, 2)
    ] + [row("kd", 3, 0.0) | {"test": None}]
    common.append_rows(tmp_path / "rows.jsonl", rows)
    drawn, save = [], figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    files = [f"--rows={tmp_path / 'rows.jsonl'}", f"--figures={tmp_path}"]
    plot.FLAGS(["plot.py", *files])
    plot.main([])
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    left, right = drawn[0].axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == list(methods.METHODS)
    dots = [line for line in left.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots[1].get_xdata(), [21.1, 21.2])
    told = [text.get_text() for text in right.get_legend().get_texts()]
    assert told[:2] == ["plain", "shake: best of a teacher"]
    np.testing.assert_allclose(right.lines[0].get_ydata(), [10.15, 20.15])
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [1, 2])
