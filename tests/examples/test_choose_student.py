"""The example of a search for a student at its smallest size: its table, report and student."""

from pathlib import Path

import keras
import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples" / "choose_student.py"


def test_finds_a_student_within_the_budget_and_reports_all(tmp_path):
    tiny = ("--images=64", "--teacher_epochs=1", "--epochs=1", "--candidates=3", "--widest=8")
    printed = programs.printed(PROGRAM, f"--output={tmp_path}", "--multiply_adds=100000", *tiny)
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line[:2] == "| "]
    names, rows = lines[0], lines[2:]
    assert names[:3] == ["width", "depth", "resolution"]
    assert len(rows) == 3
    student = keras.saving.load_model(tmp_path / "student.keras")
    assert student.output_shape == (None, 10)
    assert "% of what it was trained on" in printed
    page = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "3 students of a family:" in page
    assert (tmp_path / "report" / "report_files" / "trials_kib.svg").is_file()
