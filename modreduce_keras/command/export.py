"""Export: writes files from a saved model, and compares each with it."""

from pathlib import Path
from typing import Any

from modreduce_keras.command import networks, outputs, tasks
from modreduce_keras.command.mistakes import FailedError, MistakeError
from modreduce_keras.models.kernel_wrapper import count_in_use


def run(given: dict[str, Any]) -> None:
    """Exports as the flags say.

    Raises:
        MistakeError: If the flags, or what they name, cannot be used.
        FailedError: If a file does not agree with the model.
    """
    formats = outputs.formats(given["formats"])
    if not formats:
        raise MistakeError("--formats must name a format at least.")
    student = networks.load(given["student"], "student")
    outputs.require_fitting(student, formats)
    shape = tasks.shape_of_inputs(student, given["image_size"], "student")
    task = tasks.task(given, tasks.open_source(given), student, shape, "student")
    folder = Path(given["out"])
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"Exports {student.name} ({count_in_use(student):,} parameters) to {folder} and "
        f"compares each file with it on {task.source.parts[task.judged_on].size:,} samples."
    )
    files = outputs.write_files(student, task, formats, folder, given["least_agreement"])
    if outputs.failures(files):
        raise FailedError(outputs.failures(files))
