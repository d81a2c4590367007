"""Outputs: exported files with their proof, and JSON, as all subcommands write them."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from modreduce_keras import export, whole_files
from modreduce_keras.command.commands import FORMATS
from modreduce_keras.command.mistakes import MistakeError, did_you_mean
from modreduce_keras.command.tasks import Task
from modreduce_keras.models.fake_quantization import is_quantization_aware

NONE = "none"
_NEEDED = {"onnx": (("tf2onnx", "onnxruntime"), "onnx"), "saved_model": ((), "")}
_KEPT = (
    *("role", "accuracy", "interval", "agreement", "owner_agreement", "parameters"),
    *("multiply_adds", "size", "milliseconds", "error", "determination"),
)
_TFLITE = (("ai_edge_litert",), "export")
_NOT_OF_ROUNDED = ("float32", "float16", "dynamic")


def formats(named: Sequence[str]) -> list[str]:
    """Returns the formats that a flag names.

    Raises:
        MistakeError: If one is not known, or what runs its files is not installed.
    """
    named = [name for name in dict.fromkeys(one.strip() for one in named) if name != NONE]
    for name in filter(None, named):
        if name not in FORMATS:
            raise MistakeError(
                f"--formats must be of {', '.join(FORMATS)}, or {NONE}. Received: {name!r}."
                + did_you_mean(name, [*FORMATS, NONE])
            )
        modules, extra = _NEEDED.get(name, _TFLITE)
        if any(importlib.util.find_spec(module) is None for module in modules):
            raise MistakeError(
                f"--formats={name} needs what pip install 'modreduce-keras[{extra}]' brings; "
                f"--formats={NONE} writes no files."
            )
    return [name for name in named if name]


def require_fitting(student: keras.Model, named: Sequence[str]) -> None:
    """Raises if formats cannot be written of a student, before it is trained.

    Raises:
        MistakeError: If it is quantization-aware, and its file would not be one of integers.
    """
    others = [name for name in named if name in _NOT_OF_ROUNDED]
    if others and is_quantization_aware(student):
        raise MistakeError(
            f"--formats must be int8 for a student that is quantization-aware, {student.name!r}, "
            f"whose file computes in integers; onnx and saved_model have its rounded weights. "
            f"Received: {', '.join(others)}."
        )


def write_files(
    student: keras.Model, task: Task, named: Sequence[str], folder: Path, least: float
) -> dict[str, dict[str, Any]]:
    """Exports a student, compares each file with it, and writes what was found beside it.

    Args:
        student: The model.
        task: Its data.
        named: The formats.
        folder: Where the files are written, as `student_FORMAT`.
        least: Share of the answers in which a file must agree.

    Returns:
        The figures of each file by its name, with `"passed"`: whether it agrees.
    """
    found = {}
    for name in named:
        path = _write(student, task, name, folder)
        try:
            figures = export.verify(
                path, student, task.judged(), least_agreement=least, kind=task.kind
            )._asdict()
            figures["passed"] = True
        except export.VerificationError as error:
            known = error.verification._asdict() if error.verification else {}
            figures = {**known, "passed": False, "problem": str(error)}
        figures |= {"least_agreement": least, "judged_on": task.judged_on}
        write_json(path.with_name(f"{path.stem}.verification.json"), figures)
        print(f"{path}: {_described(figures)}")
        found[path.name] = figures
    return found


def failures(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what to say about files that do not agree with their model; empty if all do."""
    failed = [name for name, figures in files.items() if not figures["passed"]]
    if not failed:
        return ""
    return (
        f"{', '.join(failed)} does not agree with the student as often as --least_agreement says; "
        "the .verification.json files beside hold the figures."
    )


def _write(student: keras.Model, task: Task, name: str, folder: Path) -> Path:
    if name == "onnx":
        return export.to_onnx(student, folder / "student.onnx")
    if name == "saved_model":
        return export.to_saved_model(student, folder / "student_saved_model")
    options: dict[str, Any] = {} if name == "float32" else {"quantization": name}
    if name == "int8" and not is_quantization_aware(student):
        options["representative"] = task.representative()
    return export.to_tflite(student, folder / f"student_{name}.tflite", **options)


def _described(figures: Mapping[str, Any]) -> str:
    if "agreement" not in figures:
        return f"cannot be used: {figures['problem']}"
    right = figures["accuracy"]
    parts = [
        f"{figures['size'] / 1024:.1f} KiB",
        f"agrees with the student on {100 * figures['agreement']:.2f} % of "
        f"{figures['samples']:,} {figures['judged_on']} samples",
        f"{figures['milliseconds']:.2f} ms",
    ]
    if right is not None:
        parts.insert(1, f"right on {100 * right:.1f} %")
    return ", ".join(parts) + ("" if figures["passed"] else " - TOO FEW")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, as a whole or not at all."""
    text = json.dumps(content, indent=1, default=_plain, ensure_ascii=False)
    whole_files.write(path, f"{text}\n".encode())


def _plain(value: Any) -> Any:
    """Returns what JSON can hold of a number, array or path."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def plain_figures(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the single numbers of a report's figures, by name."""
    return {
        name: {key: value for key in _KEPT if (value := getattr(one, key)) is not None}
        for name, one in figures.items()
    }
