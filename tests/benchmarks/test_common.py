"""Interleaving and its statistics."""

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

import modreduce_keras as mr
from tests.support import programs


@pytest.fixture
def common():
    from benchmarks import common

    return common


def test_contenders_take_turns_and_rotate(common):
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = common.interleave(contenders, rounds=4, steps=2)
    assert "".join(calls) == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert list(times) == ["a", "b", "c"]
    assert all(time.shape == (4, 2) and (time > 0).all() for time in times.values())


def test_spread(common):
    # Five ordered values: the quartiles are the second and the fourth.
    assert common.spread(np.array([5.0, 1.0, 4.0, 2.0, 3.0]), "ms") == {
        "ms_median": 3.0,
        "ms_p25": 2.0,
        "ms_p75": 4.0,
    }


def test_ratios_are_paired_by_round(common):
    own, reference = np.array([[1.0, 3.0], [20.0, 20.0]]), np.array([[1.0, 1.0], [10.0, 30.0]])
    np.testing.assert_allclose(common.paired_ratios(own, reference), [2.0, 1.0])


def test_same_logs_and_movements_pass(common):
    common.require_same_logs("ours", {"a": 1.00001, "b": 0.0}, "theirs", {"b": 0.0, "a": 1.0})
    common.require_same_movement("ours", np.array([1.0, 2.001]), "theirs", np.array([1.0, 2.0]))


@pytest.mark.parametrize("logs", [{"a": 1.001}, {}, {"a": 1.0, "b": 2.0}, {"a": np.nan}])
def test_other_logs_are_refused(common, logs):
    with pytest.raises(RuntimeError, match=r"'ours' logs {.*}, but 'theirs' logs {'a': 1.0}"):
        common.require_same_logs("ours", logs, "theirs", {"a": 1.0})


@pytest.mark.parametrize("moved", [[1.0, 2.01], [np.nan, 2.0]])
def test_other_movements_are_refused(common, moved):
    with pytest.raises(RuntimeError, match="'ours' moves the student differently from 'theirs'"):
        common.require_same_movement("ours", np.array(moved), "theirs", np.array([1.0, 2.0]))


def test_rows_are_appended_and_read_back(common, tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    assert common.read_rows(path) == []
    common.append_rows(path, [{"a": 1}, {"a": None}])
    common.append_rows(path, [{"a": "é"}])
    assert common.read_rows(path) == [{"a": 1}, {"a": None}, {"a": "é"}]


def test_the_command_of_a_row_is_the_module_that_runs(common, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/where/soak.py", "--steps=2", "--note=a b"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("benchmarks.soak", None))
    command = common.metadata(0)["command"]
    assert command == "python -m benchmarks.soak --steps=2 '--note=a b'"


def test_the_command_of_a_row_names_no_folder_of_the_machine(common, monkeypatch):
    places = ["--data_dir=/where/data", "--folder", "/where/runs", "--output=rows.jsonl"]
    monkeypatch.setattr(sys, "argv", ["/where/soak.py", *places, "--steps=2"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("benchmarks.soak", None))
    command = common.metadata(0)["command"]
    assert command == "python -m benchmarks.soak --output=rows.jsonl --steps=2"


def test_a_row_needs_no_installation_of_the_package(common, monkeypatch):
    def version(name):
        if name.startswith("modreduce"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert common.metadata(0)["modreduce_keras"] == mr.__version__


def test_rows_from_before_the_folders_name_the_command_of_today(common):
    rows = [row for path in common.RESULTS.glob("*.jsonl") for row in common.read_rows(path)]
    modules = {row["command"].split()[2] for row in rows}
    assert {"benchmarks.cifar100.train", "benchmarks.speed.step_overhead"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module), module
    flagfiles = {re.search(r"--flagfile=(\S+)|$", row["command"])[1] for row in rows} - {None}
    assert flagfiles
    assert all((common.RESULTS.parents[1] / path).is_file() for path in flagfiles)


def test_resident_peak_sees_arrays_and_only_those_of_the_call(common):
    try:
        common.resident_peak(lambda: None)
    except (OSError, AttributeError):
        pytest.skip("the system does not tell the peak of a process")

    def make(mebibytes):
        return lambda: np.ones(mebibytes * 2**20, "uint8")

    for _ in range(2):
        assert common.resident_peak(make(200)) == pytest.approx(200, abs=4)
    assert common.resident_peak(make(20)) == pytest.approx(20, abs=4)
    held = make(50)()
    assert common.resident_peak(lambda: held.sum()) == pytest.approx(0, abs=4)


PEAKS = """
import json

import tensorflow as tf

from benchmarks.common import peak_memory


@tf.function
def sum_of_a_temporary(elements):
    return tf.reduce_sum(tf.fill([elements], 2.0))


def of_a_temporary(mebibytes):
    elements = tf.constant(mebibytes * 2**20 // 4)
    return peak_memory(lambda: sum_of_a_temporary(elements))


sum_of_a_temporary(tf.constant(10))
temporaries = [of_a_temporary(mebibytes) for mebibytes in (300, 300, 40, 300)]
held = tf.fill([25 * 2**20], 1.0)


def double():
    return tf.reduce_sum(held + held).numpy()


double()
print(json.dumps([temporaries, peak_memory(double), peak_memory(lambda: None)]))
"""


@pytest.mark.slow
def test_peak_memory_is_that_of_temporaries_beyond_what_is_held(tmp_path):
    """In a process of its own: threads that other tests leave behind take memory as well."""
    (tmp_path / "peaks.py").write_text(PEAKS, "utf-8")
    ended = programs.run(tmp_path / "peaks.py", timeout=300)
    assert ended.returncode == 0, ended.stderr
    temporaries, beyond, nothing = json.loads(ended.stdout.splitlines()[-1])
    # TensorFlow keeps what it frees, and each is seen all the same.
    assert temporaries == pytest.approx([300, 300, 40, 300], abs=4)
    assert beyond == pytest.approx(100, abs=4)
    assert nothing == pytest.approx(0, abs=4)


def test_peak_memory_goes_by_the_resident_set_where_tensorflow_does_not_count(common, monkeypatch):
    monkeypatch.setattr(common, "counted_peak", lambda function: None)
    monkeypatch.setattr(common, "resident_peak", lambda function: 7.0)
    assert common.peak_memory(lambda: None) == 7.0


def test_a_commit_is_marked_where_other_files_than_rows_differ(common, tmp_path, monkeypatch):
    def git(*arguments):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True)

    files = [
        tmp_path / path for path in ("benchmarks/results/rows.jsonl", "benchmarks/a.py", "b.py")
    ]
    monkeypatch.setattr(common, "__file__", str(files[1]))
    files[0].parent.mkdir(parents=True)
    assert common.metadata(0)["commit"] is None
    for file in files:
        file.write_text("one\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    clean = common.metadata(0)["commit"]
    assert re.fullmatch(r"[0-9a-f]{10}", clean)
    files[0].write_text("two\n")
    assert common.metadata(0)["commit"] == clean
    for file in files[1:]:
        file.write_text("two\n")
        assert common.metadata(0)["commit"] == f"{clean}-dirty"
        file.write_text("one\n")


def test_cells_of_a_table_stay_cells(common):
    lines = common.table(["a|b", "c"], [["**x** | y\nz", 1], [r"\|", "d"]])
    assert lines == [r"| a\|b | c |", "|---|---|", r"| **x** \| y z | 1 |", r"| \| | d |"]
