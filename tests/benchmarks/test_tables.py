"""The tables of the README and the site: made from rows, put between markers, and checked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.about import RUN

README = "# Title\n\n<!-- table:step_overhead -->\nwhatever\n<!-- /table -->\n\nThe end.\n"


def row(pair, contender, ms, ratio_to=None, ratio=1.0, **others):
    row = {"pair": pair, "contender": contender, **RUN, **others}
    row |= {"ms_median": ms, "ms_p25": ms - 1, "ms_p75": ms + 2}
    if ratio_to:
        row |= {"ratio_to": ratio_to, "ratio_median": ratio}
        row |= {"ratio_p25": ratio - 0.01, "ratio_p75": ratio + 0.02}
    return row


@pytest.fixture
def tables():
    from benchmarks import tables

    return tables


@pytest.fixture
def results(tmp_path):
    from benchmarks import common

    rows = [
        row("a:b", "KD, by hand", 999.0, commit="old", date="2029-01-01T00:00:00+00:00"),
        row("a:b", "KD, by hand", 200.4),
        row("a:b", "KD, ours", 202.0, "KD, by hand", 1.012, wanted=1.2),
        row("c:d:0.35", "KD, by hand", 50.0, size=96),
        row("a:b", "KD, later", 300.0),
    ]
    common.append_rows(tmp_path / "step_overhead.jsonl", rows[:2])
    common.append_rows(tmp_path / "step_overhead.jsonl", rows[2:])
    return tmp_path


def test_latest_rows_stand_between_the_markers(tables, results):
    assert tables.render(README, results) == (
        "# Title\n\n<!-- table:step_overhead -->\n"
        "| teacher → student | step | milliseconds (quartiles) | ratio (quartiles) | wanted |\n"
        "|---|---|---|---|---|\n"
        "| a → b | KD, by hand | 200 (199 to 202) |  |  |\n"
        "| a → b | KD, ours | 202 (201 to 204) | 1.01 (1.00 to 1.03) x KD, by hand | ≤ 1.20 |\n"
        "| a → b | KD, later | 300 (299 to 302) |  |  |\n"
        "| c → d, width 0.35, 96 x 96 | KD, by hand | 50 (49 to 52) |  |  |\n"
        "\n"
        "`python -m benchmarks.speed.step_overhead` (batch 64, rounds 15, steps 2) on 2 x CPU, "
        "TensorFlow 2.21.0, Keras 3.15.1, Python 3.11.7, modreduce_keras 0.1.0 at abc, "
        "2030-01-02.\n"
        "<!-- /table -->\n\nThe end.\n"
    )


def test_rendering_again_changes_nothing(tables, results):
    once = tables.render(README, results)
    assert tables.render(once, results) == once


def test_runs_that_differ_are_named_apart(tables):
    rows = [row("a:b", "x", 1.0), row("a:b", "y", 1.0, commit=None, device="1 x GPU")]
    made = tables.step_overhead(rows)
    assert "on 2 x CPU, TensorFlow 2.21.0, Keras 3.15.1, Python 3.11.7" in made
    assert "on 1 x GPU" in made
    assert "modreduce_keras 0.1.0, 2030-01-02." in made


def test_without_rows_the_table_says_so(tables, tmp_path):
    assert "-->\n*Not measured yet.*\n<!--" in tables.render(README, tmp_path)


@pytest.mark.parametrize(
    "readme", ["# No markers\n", README + "<!-- table:unknown -->\n<!-- /table -->\n"]
)
def test_markers_must_be_those_of_tables(tables, results, readme):
    with pytest.raises(ValueError, match=r"must have places.*for some of \['cifar100_input', 'c"):
        tables.render(readme, results)


def test_the_pages_are_up_to_date_and_show_every_table(tables):
    shown = set()
    for page in map(Path, tables.PAGES):
        text = page.read_text("utf-8")
        assert tables.render(text, tables.common.RESULTS) == text, (
            f"{page.name} is not up to date: run python -m benchmarks.tables"
        )
        shown |= set(re.findall(f"{tables.MARK}(\\w+)", text))
    assert shown == {*tables.TABLES, *tables.OF_SEVERAL}


def test_the_table_that_recommends(tables, tmp_path):
    from benchmarks import common

    cifar100 = {"pair": "a:b", "epochs": 1, "samples": 1, "augmentations": 1, "batch": 1}
    cifar100 |= {"rate": 1, "validation_images": 1, "students_test": None}
    three = {"test": 0.9, "students_test": {"a": 0.3, "b": 0.5}}
    rows = [
        {**cifar100, "method": "plain", "seed": 1, "test": 0.25},
        {**cifar100, "method": "plain", "seed": 2, "test": 0.35},
        {**cifar100, "method": "dist", "seed": 1, "test": 0.35},
        {**cifar100, "method": "dist", "seed": 2, "test": 0.47},
        {**cifar100, "method": "dist and hint", "seed": 1, "test": 0.45},
        {**cifar100, "method": "three/kd", "seed": 2, **three},
        {**cifar100, "method": "crd", "seed": 1, "test": None},
    ]
    common.append_rows(tmp_path / "cifar100_small.jsonl", rows)
    online = {"epochs": 2, "labels": 1, "teacher_epochs": 1, "learning_rate": 1, "online_weight": 1}
    rows = [
        {**online, "epochs": 1, "method": "kd", "seed": 1, "test": 0.0},
        {**online, "method": "plain", "seed": 1, "test": 0.5},
        {**online, "method": "kd", "seed": 1, "test": 0.54},
        {**online, "method": "dist", "seed": 3, "test": 0.9},
    ]
    common.append_rows(tmp_path / "fashion_singles.jsonl", rows)
    rows = [{"method": "kd"}, {"method": "dist", "ratio_median": 1.126}]
    common.append_rows(tmp_path / "method_cost.jsonl", rows)
    page = "<!-- table:recommended -->\n<!-- /table -->"
    lines = tables.render(page, tmp_path).splitlines()
    assert lines[3] == '| `"dist"`, and `"hint"` at `"stage2"` | +20.0 |  |  |'
    assert lines[4] == '| `"dist"` | +11.0 ± 1.4 |  | 1.13 x |'
    assert '| `"kd"` | +5.0 | +4.0 | 1.00 x |' in lines
    assert '| `"crd"` |  |  |  |' in lines


def test_the_table_of_rkd(tables):
    same = {"features": 64, **RUN, "ms_median": 9.0, "ms_p25": 8.0, "ms_p75": 10.0}
    ratio = {"ratio_to": "published", "ratio_median": 0.251, "ratio_p25": 0.2, "ratio_p75": 0.3}
    rows = [
        {**same, "contender": "published", "mib": 812.4},
        {**same, "contender": "ours", "mib": 93.2, "mib_ratio": 0.1147, **ratio},
    ]
    made = tables.rkd_memory(rows).splitlines()
    assert made[2] == "| 64 | published | 9 (8 to 10) |  | 812 |  |"
    assert made[3] == "| 64 | ours | 9 (8 to 10) | 0.25 (0.20 to 0.30) | 93 | 0.11 |"
    assert made[5].startswith(
        "`python -m benchmarks.speed.step_overhead` (batch 64, rounds 15, steps 2)"
    )


def test_the_table_of_the_guard(tables):
    same = {"kind": "memory", "rows": 640_000, "student": "s", "negatives": 9, **RUN}
    same |= {"ms_median": 9.0, "ms_p25": 8.0, "ms_p75": 10.0}
    ratio = {"ratio_to": "without", "ratio_median": 1.016, "ratio_p25": 1.0, "ratio_p75": 1.03}
    rows = [{**same, "contender": "without"}, {**same, "contender": "with", **ratio}]
    made = tables.guard_cost(rows).splitlines()
    assert made[2] == "| memory | 640,000 | without | 9 (8 to 10) |  |"
    assert made[3] == "| memory | 640,000 | with | 9 (8 to 10) | 1.02 (1.00 to 1.03) |"
    assert made[5].startswith(
        "`python -m benchmarks.speed.step_overhead` (student s, negatives 9, "
    )


def test_the_table_of_online_costs(tables):
    sizes = {"student": "s", "teacher": "t", "at": "stage2"}
    same = {"form": "branches", **sizes, **RUN, "ms_median": 9.0, "ms_p25": 8.0, "ms_p75": 10.0}
    ratio = {"ratio_median": 1.016, "ratio_p25": 1.0, "ratio_p75": 1.03}
    rows = [
        {**same, "contender": "ONE, by hand"},
        {**same, "contender": "ONE, ours", **ratio, "ratio_to": "ONE, by hand", "wanted": 1.05},
        {**same, "contender": "ONE, ours", **ratio, "ratio_to": "whole", "wanted": None},
        {**same, "form": "modreduce", "contender": "KD"},
        {**same, "contender": "ONE, by hand", "ms_median": 9.6},
    ]
    made = tables.online_cost(rows).splitlines()
    assert made[2:6] == [
        "| ONE, by hand | 10 (8 to 10) |  |  |",
        "| ONE, ours | 9 (8 to 10) | 1.02 (1.00 to 1.03) x ONE, by hand | ≤ 1.05 |",
        "| ONE, ours | 9 (8 to 10) | 1.02 (1.00 to 1.03) x whole |  |",
        "| KD | 9 (8 to 10) |  |  |",
    ]
    assert "(student s, teacher t, at stage2, batch 64, rounds 15, steps 2)" in made[7]


def test_the_table_of_the_soak(tables):
    def soaked(with_checkpoints, growth, traces):
        own = row("pair", "contender", 1.0, model_checkpoint=with_checkpoints)
        for name in ("mib", "given_out_mib"):
            own |= {f"{name}_first": 900.0, f"{name}_median": 940.0, f"{name}_last": 944.04}
            own |= {f"{name}_per_1000_steps": growth, f"{name}_per_1000_steps_error": 0.01}
        own |= {"steps": 20000, "epochs": 40, "settling": 15, "samples": 7992}
        return {**own, "traces_first_epoch": {"forward": 7}, "traces": {"forward": traces}}

    made = tables.soak([soaked(False, 9.0, 9), soaked(True, 0.7, 8), soaked(False, 0.1, 7)])
    lines = made.splitlines()
    assert lines[2:6] == [
        "| no | resident | 900.0 | 940.0 | 944.0 | +0.100 ± 0.010 | 0 |",
        "| no | given out | 900.0 | 940.0 | 944.0 | +0.100 ± 0.010 | 0 |",
        "| yes | resident | 900.0 | 940.0 | 944.0 | +0.700 ± 0.010 | 1 |",
        "| yes | given out | 900.0 | 940.0 | 944.0 | +0.700 ± 0.010 | 1 |",
    ]
    assert "steps 20000, epochs 40, settling 15" in lines[-1]


def online_run(method, seed, test, seconds, ensemble=None, **others):
    setting = {"epochs": 30, "labels": 1000, "teacher_epochs": 8, "learning_rate": 0.02}
    return {
        **RUN,
        **setting,
        "online_weight": 0.7,
        "method": method,
        "seed": seed,
        "test": test,
        "ensemble_test": ensemble,
        "softmax_ensemble_test": None if method == "plain" else 0.9,
        "seconds": seconds,
        "student_passes": 1.0 if method == "plain" else 2.807,
        "teacher_passes": 0,
        **others,
    }


def test_the_table_of_online_methods(tables):
    rows = [
        online_run("plain", 9, 0.1, 1.0, online_weight=0.3),  # another setting
        online_run("plain", 1, 0.5, 99.0),  # run again below
        online_run("plain", 1, 0.80, 10.0),
        online_run("one", 1, 0.84, 25.0, ensemble=0.85),
        online_run("plain", 2, 0.82, 20.0),
        online_run("one", 2, 0.84, 30.0, ensemble=0.87),
        online_run("mutual", 3, 0.83, 30.0),
    ]
    made = tables.online_table(rows).splitlines()
    # Deviations: |.80 - .82| / √2 = .0141; costs: (25/10 + 30/20) / 2 = 2, and none for seed 3.
    assert made[2:5] == [
        "| plain | 81.0 ± 1.4 |  |  | 1.0 | 0 | 1.0 | 2 |",
        "| one | 84.0 ± 0.0 | 86.0 ± 1.4 | 90.0 ± 0.0 | 2.8 | 0 | 2.0 | 2 |",
        "| mutual | 83.0 |  | 90.0 | 2.8 | 0 |  | 1 |",
    ]
    settings = "epochs 30, labels 1000, teacher_epochs 8, learning_rate 0.02, online_weight 0.7"
    assert f"({settings})" in made[6]


def test_the_table_of_training_without_data(tables):
    about = {"updates": 5, "batch": 2, "inverted": 3, "teacher": 0.875, "command": "c"}
    about |= {"commit": "a" * 40, "device": "CPU", "date": "2026-01-01", "tensorflow": "2.21.0"}
    about |= {"keras": "3.15.1", "modreduce_keras": "0.2.0", "python": "3.11.7"}
    rows = [
        {**about, "method": method, "seed": seed, "accuracy": accuracy, "seconds": 10.0 * seed}
        for method, seed, accuracy in [("data", 1, 0.8), ("zskt", 1, 0.5), ("zskt", 2, 0.6)]
    ]
    old = {**rows[0], "updates": 4, "method": "noise"}
    made = tables.data_free([old, *rows]).splitlines()
    assert made[0] == "The teacher: 87.5 %."
    assert made[4:6] == ["| data | 80.0 | 10 | 1 |", "| zskt | 55.0 ± 7.1 | 15 | 2 |"]
    assert "| zskt, statistics=10 | 50.0 | 10 | 1 |" in tables.data_free(
        [{**rows[1], "method": "zskt_statistics"}]
    )
    # On another machine, the teacher became another.
    of_two = tables.data_free([*rows, {**rows[0], "seed": 2, "teacher": 0.88}]).splitlines()
    assert of_two[0] == "The teacher: 87.5 to 88.0 %."


def test_the_table_of_precision(tables):
    step = {"part": "steps", "bfloat16": False, "cores": 1}
    errors = {"loss_error": 1.04e-4, "gradient_error": 0.0823, "gradient_cosine": 0.99664}
    low = row("a:b", "low", 300.0, "float32", 1.5, **step, **errors, wanted=0.78)
    steps = [
        row("a:b", "float32", 99.0, **step),
        row("a:b", "float32", 200.0, **step),
        low,
        {**low, "pair": "c:d", "wanted": None, "bfloat16": True},
    ]
    setting = {"training_steps": 300, "labels": 1000, "teacher_epochs": 8, "learning_rate": 0.02}
    run = {"part": "accuracy", **RUN, **setting, "skipped": 0}
    runs = [
        {**run, "contender": "float32", "seed": 3, "test": 0.1, "labels": 64},  # another setting
        {**run, "contender": "float32", "seed": 1, "test": 0.80},
        {**run, "contender": "low", "seed": 1, "test": 0.83, "skipped": 2},
        {**run, "contender": "float32", "seed": 2, "test": 0.82},
        {**run, "contender": "low", "seed": 2, "test": 0.83, "skipped": 3},
    ]
    made = tables.precision([*runs, *steps]).splitlines()
    assert made[2:5] == [
        "| a → b | float32 | no, emulated | 200 (199 to 202) |  |  |  |  |",
        "| a → b | low | no, emulated | 300 (299 to 302) | 1.50 (1.49 to 1.52) | ≤ 0.78 | 1e-04 "
        "| 8e-02 (0.9966) |",
        "| c → d | low | yes | 300 (299 to 302) | 1.50 (1.49 to 1.52) |  | 1e-04 "
        "| 8e-02 (0.9966) |",
    ]
    assert "(batch 64, rounds 15, steps 2, cores 1)" in made[6]
    assert made[7] == ""
    # A deviation of 1.414, and means of 81 and 83.
    assert made[10:12] == [
        "| float32 | 81.0 ± 1.4 |  | 0 | 2 |",
        "| low | 83.0 ± 0.0 | +1.4 | 5 | 2 |",
    ]
    settings = "training_steps 300, labels 1000, teacher_epochs 8, learning_rate 0.02"
    assert f"({settings})" in made[13]
    assert tables.precision(steps[:1]).splitlines()[-1] == made[6]
    assert tables.precision(runs).splitlines() == made[8:]


def test_the_table_of_quantized_distillation(tables):
    setting = {"epochs": 30, "more_epochs": 10, "learning_rate": 0.02, "more_learning_rate": 0.002}
    run = {**RUN, **setting, "teacher_epochs": 8, "labels": 1000}
    rows = [
        {**run, "contender": "aware", "bits": 4, "seed": 9, "test": 0.1, "epochs": 3},
        {**run, "contender": "float32", "bits": 32, "seed": 1, "test": 0.80},
        {**run, "contender": "aware", "bits": 4, "seed": 1, "test": 0.79},
        {**run, "contender": "float32", "bits": 32, "seed": 2, "test": 0.82},
        {**run, "contender": "aware", "bits": 4, "seed": 2, "test": 0.83},
        {**run, "contender": "aware", "bits": 8, "seed": 2, "test": 0.81},
    ]
    made = tables.quantized_distillation(rows).splitlines()
    # Losses of 1 and -1 points: a deviation of 1.414. Accuracies of 79 and 83: 2.828.
    assert made[2:5] == [
        "| float32 | 32 | 81.0 ± 1.4 |  | 2 |",
        "| aware | 4 | 81.0 ± 2.8 | 0.0 ± 1.4 | 2 |",
        "| aware | 8 | 81.0 | 1.0 | 1 |",
    ]
    settings = "epochs 30, more_epochs 10, learning_rate 0.02, more_learning_rate 0.002"
    assert f"({settings}, teacher_epochs 8, labels 1000)" in made[6]


def test_command_writes_and_checks(results):
    readme = results / "README.md"
    readme.write_text(README, "utf-8")
    command = [sys.executable, "-m", "benchmarks.tables"]
    command += [f"--page={readme}", f"--results={results}"]

    stale = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert stale.returncode == 1
    assert "README.md is not up to date: run python -m benchmarks.tables" in stale.stderr
    assert readme.read_text("utf-8") == README

    subprocess.run(command, check=True)
    assert "| a → b | KD, ours | 202 (201 to 204) |" in readme.read_text("utf-8")
    subprocess.run([*command, "--check"], check=True)


def test_all_tables_are_made_without_tensorflow():
    without = "import sys; sys.modules.update(tensorflow=None, keras=None); "
    made = f"{without}from absl import app; from benchmarks import tables; app.run(tables.main)"
    command = [sys.executable, "-c", made, "--check"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_table_of_the_teacher_cache(tables):
    sizes = {"student": "s", "teacher": "t", "at": "stage3", "images": 2048, "views": 2}
    same = {**sizes, **RUN, "ms_median": 9.0, "ms_p25": 8.0, "ms_p75": 10.0}
    ratio = {"ratio_to": "labels", "ratio_median": 1.036, "ratio_p25": 1.0, "ratio_p75": 1.05}
    rows = [
        {**same, "contender": "labels", "ms_median": 99.0},
        {**same, "contender": "labels"},
        {**same, "contender": "teacher", **ratio, "ratio_median": 1.571},
        {**same, "contender": "cache", **ratio, "wanted": 1.1, "bytes_per_view": 4161},
    ]
    made = tables.teacher_cache(rows).splitlines()
    assert made[2:5] == [
        "| t → s, 32 x 32 | labels | 9 (8 to 10) |  |  |  |",
        "| t → s, 32 x 32 | teacher | 9 (8 to 10) | 1.57 (1.00 to 1.05) |  |  |",
        "| t → s, 32 x 32 | cache | 9 (8 to 10) | 1.04 (1.00 to 1.05) | ≤ 1.10 | 4,161 |",
    ]
    assert "(at stage3, batch 64, images 2048, views 2, rounds 15, steps 2)" in made[6]
