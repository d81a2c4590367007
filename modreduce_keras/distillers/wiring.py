"""Wiring: builds models, tap readers and knowledge from symbolic features, before any training."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from modreduce_keras.distillers import checks
from modreduce_keras.distillers.teacher import FrozenTeacher
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.taps import ModelOutput, TapReader


class Wiring(NamedTuple):
    """How the models of a distiller are read.

    Attributes:
        inputs: The students' symbolic inputs; `None` where no student is functional, as only
            functional models declare the dtype of their inputs.
        readers: Runs each student.
        outputs: Each student's symbolic output and features.
        teacher: Runs the teacher, if there is one.
    """

    inputs: Any
    readers: dict[str, TapReader]
    outputs: dict[str, ModelOutput]
    teacher: FrozenTeacher | None


def connect(
    students: Mapping[str, keras.Model],
    teacher: keras.Model | None,
    knowledge: Mapping[str, list[Knowledge]],
) -> Wiring:
    """Checks and builds everything a distiller runs.

    Raises:
        TypeError: If something else than a Keras model came.
        ValueError: If a model cannot be built, a tap is unknown, or shapes do not fit.
    """
    models = {f"student {name!r}": student for name, student in students.items()}
    if teacher is not None:
        models["teacher"] = teacher
    _require_built(models)
    frozen = lesson = None
    if teacher is not None:
        if any(one.needs_logits for taught in knowledge.values() for one in taught):
            checks.require_logits(teacher, "teacher")
        frozen = FrozenTeacher(teacher, _taps("teacher", *knowledge.values()))
        lesson = _symbolic_output(frozen.reader)
    readers, outputs = {}, {}
    for name, student in students.items():
        role, taught = f"student {name!r}", knowledge[name]
        readers[name] = TapReader(student, _taps("student", taught), role=role)
        outputs[name] = _symbolic_output(readers[name])
        if any(one.needs_logits for one in taught):
            checks.require_logits(student, role)
        _build_knowledge(taught, outputs[name], lesson)
    functional = [student for student in students.values() if getattr(student, "inputs", None)]
    inputs = checks.input_specs(functional[0]) if functional else None
    return Wiring(inputs, readers, outputs, frozen)


def _require_built(models: Mapping[str, keras.Model]) -> None:
    for role, model in models.items():
        checks.require_model(model, role)
    checks.require_distinct(models)
    specs = [checks.input_specs(model) for model in models.values()]
    known = next((spec for spec in reversed(specs) if spec is not None), None)
    for role, model in models.items():
        checks.ensure_built(model, known, role)


def _taps(role: str, *lists: list[Knowledge]) -> list[str]:
    return [tap for several in lists for one in several for tap in one.taps(role)]


def _symbolic_output(reader: TapReader) -> ModelOutput:
    output = reader.specs(checks.input_specs(reader.model))
    checks.require_single_output(output.logits, reader.model, reader.role)
    return output


def _build_knowledge(taught: list[Knowledge], student: ModelOutput, teacher: ModelOutput) -> None:
    names = [one.name for one in taught]
    twice = checks.repeated(names)
    if twice:
        raise ValueError(
            "Each knowledge of a student needs a name of its own in the logs; give one of "
            f"them another with name=. Received several named {twice}"
        )
    for one in taught:
        pair = one.read("student", student), one.read("teacher", teacher)
        one.build(*(keras.tree.map_structure(lambda feature: feature.shape, side) for side in pair))
        # A dry run, so that shapes that do not fit are an error here and not in the step.
        one.compute_output_spec(*pair, labels=keras.KerasTensor((None,), "int64"))
