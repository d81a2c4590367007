"""Distill: trains a student, and writes it with its files, their proof and a report."""

import sys
import time
from pathlib import Path
from typing import Any

import keras

from modreduce_keras import reporting
from modreduce_keras._version import __version__
from modreduce_keras.callbacks import Resume
from modreduce_keras.command import choices, model_files, networks, outputs, tasks
from modreduce_keras.command.commands import AUTO
from modreduce_keras.command.mistakes import FailedError, MistakeError
from modreduce_keras.command.settings import Settings
from modreduce_keras.data.sources import TRAIN, VALIDATION
from modreduce_keras.distillers import Distiller
from modreduce_keras.models.kernel_wrapper import count_in_use

CHECKPOINTS, STUDENT, HISTORY, SUMMARY = (
    *("checkpoints", "student.keras", "history.json"),
    "summary.json",
)


def run(given: dict[str, Any]) -> None:
    """Trains as the flags say; a run that was killed continues.

    Raises:
        MistakeError: If the flags, or what they name, cannot be used.
        FailedError: If a file does not agree with the student.
    """
    formats = outputs.formats(given["formats"])
    settings = Settings(Path(given["out"]), given)
    # Slips of the pen are told before anything is loaded.
    choices.parsed(given["knowledge"])
    if not model_files.is_file(given["student"]):
        networks.found(given["student"])
    teacher, student, task = _build(given, settings)
    outputs.require_fitting(student, formats)
    distiller, train, curve = _compiled(given, teacher, student, task)
    folder = settings.begin(task)
    history, seconds = _trained(given, distiller, train, task, folder)
    trained = networks.plain(distiller.student)
    trained.save(folder / STUDENT)
    outputs.write_json(folder / HISTORY, history)
    files = outputs.write_files(trained, task, formats, folder, given["least_agreement"])
    summary = {
        **_about(given, task),
        "last_epoch": {name: values[-1] for name, values in history.items()},
        "seconds_of_this_start": round(seconds, 1),
        "student": STUDENT,
        "files": files,
        "versions": {"modreduce_keras": __version__, "keras": keras.__version__},
    }
    if given["report"]:
        made = {name: folder / name for name, one in files.items() if "agreement" in one}
        summary |= _reported(distiller, trained, task, made, folder, history, curve)
    outputs.write_json(folder / SUMMARY, summary)
    print(f"Student: {folder / STUDENT}; summary: {folder / SUMMARY}")
    if outputs.failures(files):
        raise FailedError(outputs.failures(files))


def _compiled(
    given: dict[str, Any], teacher: keras.Model, student: keras.Model, task: tasks.Task
) -> tuple[Distiller, Any, str]:
    """Returns the compiled distiller, its data, and the log whose curve the report draws."""
    knowledge = choices.knowledge(given["knowledge"], given["temperature"], task.kind, student)
    keras.utils.set_random_seed(given["seed"])
    distiller = Distiller(
        student=student,
        teacher=teacher,
        knowledge=knowledge,
        supervised_weight=given["supervised_weight"],
    )
    train = task.train(seed=given["seed"], augment=given["augment"])
    steps = given["epochs"] * int(train.cardinality())
    loss, metric, curve = choices.supervision(task.kind)
    optimizer = choices.optimizer(given["optimizer"], given["learning_rate"], steps)
    distiller.compile(optimizer, loss, metrics=[metric])
    return distiller, train, curve


def _trained(
    given: dict[str, Any], distiller: Distiller, train: Any, task: tasks.Task, folder: Path
) -> tuple[dict[str, list[float]], float]:
    """Trains, or continues a training that was killed; returns its logs, and the seconds."""
    resume = Resume(folder / CHECKPOINTS, every=given["checkpoint_every"] or "epoch")
    print(_described(given, distiller, task, folder))
    if resume.restore(distiller):
        print("Continues from the newest checkpoint.")
    began = time.perf_counter()
    history = distiller.fit(
        train,
        validation_data=task.validation(),
        epochs=given["epochs"],
        shuffle=False,  # the data come shuffled
        callbacks=[resume],
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    return history, time.perf_counter() - began


def _about(given: dict[str, Any], task: tasks.Task) -> dict[str, Any]:
    """Returns what the summary says of the flags and the data."""
    return {
        "command": {name: value for name, value in given.items() if value is not None},
        "kind": task.kind,
        "pixels": task.reader.pixels if task.source.image else None,
        "input_shape": task.reader.shape,
        "class_names": task.source.class_names,
        "samples": {name: part.size for name, part in task.source.parts.items()},
        "judged_on": task.judged_on,
    }


def _reported(
    distiller: Distiller,
    trained: keras.Model,
    task: tasks.Task,
    files: dict[str, Path],
    folder: Path,
    history: dict[str, list[float]],
    curve: str,
) -> dict[str, Any]:
    """Writes the report; returns what the summary says of it."""
    student = distiller.student
    found = reporting.report(
        teacher=distiller.teacher,
        students=trained,
        exports=files or None,
        data=task.judged(),
        path=folder,
        histories={"student": history},
        curve=curve,
        class_names=task.class_names(networks.units(student)),
        kind=task.kind,
        title=f"{folder.name}: what {student.name} has learnt",
    )
    print(f"Report: {found.html}")
    return {"figures": outputs.plain_figures(found.figures), "report": found.html.name}


def _build(
    given: dict[str, Any], settings: Settings
) -> tuple[keras.Model, keras.Model, tasks.Task]:
    """Returns the teacher, a new student, and what both are to answer."""
    teacher = networks.load(given["teacher"], "teacher")
    student = given["student"]
    if model_files.is_file(student):
        model = networks.load(student, "student")
        shape = tasks.shape_of_inputs(model, given["image_size"], "student")
    else:
        model = None
        size = given["image_size"]
        own = networks.input_shape(teacher)
        if size is not None and len(own) == 3:
            shape = (size, size, int(own[-1] or 3))
        else:
            shape = tasks.shape_of_inputs(teacher, None, "teacher")
    teacher = networks.resized(teacher, shape)
    source = tasks.open_source(given)
    if given["pixels"] == AUTO:
        given = {**given, "pixels": settings.pixels or AUTO}
    task = tasks.task(given, source, teacher, shape, "teacher")
    units = networks.units(teacher)
    if model is None:
        keras.utils.set_random_seed(given["seed"])
        model = networks.build(student, shape, units, task.reader.pixels)
    elif networks.units(model) != units:
        raise MistakeError(
            f"--student must have as many outputs as the teacher, {units}. Received: "
            f"{student!r} with {networks.units(model)}."
        )
    return teacher, model, task


def _described(given: dict[str, Any], distiller: Distiller, task: tasks.Task, folder: Path) -> str:
    """Returns in a line what the run does."""
    student, teacher = distiller.student, keras.tree.flatten(distiller.teacher)[0]
    terms = [one.name for one in distiller.knowledge["student"]]
    sizes = {name: part.size for name, part in task.source.parts.items()}
    held = "held-out " if task.source.held_out else ""
    return (
        f"Trains {student.name} ({count_in_use(student):,} parameters) with the labels "
        f"and {' + '.join(terms)} from {teacher.name} ({count_in_use(teacher):,}), on "
        f"{sizes[TRAIN]:,} samples for {given['epochs']} epochs; validates on "
        f"{sizes[VALIDATION]:,} {held}samples; writes to {folder}."
    )
