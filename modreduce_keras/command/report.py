"""Report: compares students and their files with a teacher, on a page."""

from pathlib import Path
from typing import Any

import keras

from modreduce_keras import reporting
from modreduce_keras.command import networks, outputs, tasks
from modreduce_keras.command.mistakes import MistakeError

FIGURES = "report.json"


def run(given: dict[str, Any]) -> None:
    """Compares what the flags name.

    Raises:
        MistakeError: If the flags, or what they name, cannot be used.
    """
    students = _students(given["student"])
    first = next(iter(students.values()))
    files = [Path(one) for one in given["files"] or []]
    if files and len(students) > 1:
        raise MistakeError("--files is for one student; for several, use mr.report in Python.")
    shape = tasks.shape_of_inputs(first, given["image_size"], "student")
    teacher = None
    if given["teacher"]:
        teacher = networks.resized(networks.load(given["teacher"], "teacher"), shape)
    judge, role = (first, "student") if teacher is None else (teacher, "teacher")
    task = tasks.task(given, tasks.open_source(given), judge, shape, role)
    folder = Path(given["out"])
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"Compares {', '.join(students)} with {'no teacher' if teacher is None else teacher.name} "
        f"on {task.source.parts[task.judged_on].size:,} samples."
    )
    options = {"title": given["title"]} if given["title"] else {}
    found = reporting.report(
        teacher=teacher,
        students=students if len(students) > 1 else first,
        exports={one.name: one for one in files} or None,
        data=task.judged(),
        path=folder,
        class_names=task.class_names(networks.units(first)),
        kind=task.kind,
        **options,
    )
    outputs.write_json(folder / FIGURES, outputs.plain_figures(found.figures))
    print(f"Report: {found.html}; figures: {folder / FIGURES}")


def _students(named: list[str]) -> dict[str, keras.Model]:
    """Returns the students by name: that of the file, or `NAME=FILE`."""
    found: dict[str, keras.Model] = {}
    for one in named:
        name, _, path = one.rpartition("=")
        name = name or Path(path).stem
        if name in found:
            raise MistakeError(
                f"--student must have different names, NAME=FILE.keras. Received: {name!r} twice."
            )
        found[name] = networks.load(path, "student")
    return found
