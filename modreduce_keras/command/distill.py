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
    folder = settings.begin(task)
    resume = Resume(folder / CHECKPOINTS, every=given["checkpoint_every"] or "epoch")
    terms = [one.name for one in distiller.knowledge["student"]]
    print(_described(given, teacher, student, task, terms, folder))
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
    seconds = time.perf_counter() - began
    trained = networks.plain(distiller.student)
    trained.save(folder / STUDENT)
    outputs.write_json(folder / HISTORY, history)
    files = outputs.write_files(trained, task, formats, folder, given["least_agreement"])
    summary = {
        "command": {name: value for name, value in given.items() if value is not None},
        "kind": task.kind,
        "pixels": task.reader.pixels if task.source.image else None,
        "input_shape": task.reader.shape,
        "class_names": task.source.class_names,
        "samples": {name: part.size for name, part in task.source.parts.items()},
        "judged_on": task.judged_on,
        "last_epoch": {name: values[-1] for name, values in history.items()},
        "seconds_of_this_start": round(seconds, 1),
        "student": STUDENT,
        "files": files,
        "versions": {"modreduce_keras": __version__, "keras": keras.__version__},
    }
    if given["report"]:
        found = reporting.report(
            teacher=teacher,
            students=trained,
            exports={name: folder / name for name, one in files.items() if "agreement" in one}
            or None,
            data=task.judged(),
            path=folder,
            histories={"student": history},
            curve=curve,
            class_names=task.class_names(networks.units(student)),
            kind=task.kind,
            title=f"{folder.name}: what {student.name} has learnt",
        )
        summary["figures"] = outputs.plain_figures(found.figures)
        summary["report"] = found.html.name
        print(f"Report: {found.html}")
    outputs.write_json(folder / SUMMARY, summary)
    print(f"Student: {folder / STUDENT}; summary: {folder / SUMMARY}")
    if outputs.failures(files):
        raise FailedError(outputs.failures(files))


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


def _described(
    given: dict[str, Any], teacher: Any, student: Any, task: Any, terms: list[str], folder: Path
) -> str:
    """Returns in a line what the run does."""
    sizes = {name: part.size for name, part in task.source.parts.items()}
    held = "held-out " if task.source.held_out else ""
    return (
        f"Trains {student.name} ({count_in_use(student):,} parameters) with the labels "
        f"and {' + '.join(terms)} from {teacher.name} ({count_in_use(teacher):,}), on "
        f"{sizes[TRAIN]:,} samples for {given['epochs']} epochs; validates on "
        f"{sizes[VALIDATION]:,} {held}samples; writes to {folder}."
    )
