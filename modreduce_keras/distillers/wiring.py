"""Wiring: builds the forward pass of a distiller from symbolic features, before any training."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from modreduce_keras.data import TeacherCache, TeacherOutputs
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.checks import heads
from modreduce_keras.distillers.step.branching import SharedTrunk
from modreduce_keras.distillers.step.forward import ForwardPass
from modreduce_keras.distillers.step.inputs import Inputs
from modreduce_keras.distillers.teachers.base import Teacher, models_of
from modreduce_keras.distillers.teachers.cached import CachedTeacher
from modreduce_keras.distillers.teachers.live import LiveTeacher
from modreduce_keras.knowledge import Knowledge, Response
from modreduce_keras.models.graph import input_specs
from modreduce_keras.symbolic import output_spec
from modreduce_keras.taps import ModelOutput, TapReader, activations_told


def connect(
    students: Mapping[str, keras.Model],
    teacher: Any,
    knowledge: Mapping[str, list[Knowledge]],
    views: Inputs,
    *,
    teacher_dtype: str | None = None,
    taps: Mapping[str, list[str]] | None = None,
    teacher_taps: Sequence[str] = (),
    branches: Any = None,
) -> ForwardPass:
    """Checks and builds everything a distiller runs.

    Args:
        students: Models to train, by name.
        teacher: A trained model, several, a cache of one, outputs alone, or `None`.
        knowledge: What each student learns.
        views: What of a batch each side sees.
        teacher_dtype: What a folded copy of the teacher computes in, if one is to run.
        taps: Further taps of the students to read, by student.
        teacher_taps: Further taps of the teacher to read.
        branches: The branched model that the students are of, if they are.

    Raises:
        TypeError: If the model is not a Keras model.
        ValueError: If a model cannot be built, a tap is unknown, or shapes do not fit.
    """
    teachers = models_of(teacher)
    everything = [one for several in knowledge.values() for one in several]
    roles = {f"student {name!r}": student for name, student in students.items()}
    of_teachers = {
        "teacher" if len(teachers) == 1 else f"teacher {number}": model
        for number, model in enumerate(teachers)
    }
    known, known_to_teacher = _require_all_built(roles, of_teachers, views)
    for spec in map(input_specs, students.values()):
        views.share(spec if isinstance(spec, Mapping) else ())
    checks.require_distinct({**roles, **of_teachers})
    _leave_masks_out(views, everything, [*students.values(), *teachers])
    runs = of_teacher = None
    if teachers:
        stored = isinstance(teacher, (TeacherCache, TeacherOutputs))
        kind = CachedTeacher if stored else LiveTeacher
        read = [*_taps("teacher", everything), *teacher_taps]
        if not (stored or views.teacher_is_apart or views.own):
            for pair in itertools.product(students.values(), teachers):
                checks.require_equal_inputs(*pair)
        runs = kind(teacher, read, views, teacher_dtype, specs=known_to_teacher)
        of_teacher = _checked_teacher(runs, everything)
        if isinstance(runs, CachedTeacher):
            runs.require_comparable(everything, of_teacher)
    readers, outputs = {}, {}
    for name, (role, student) in zip(students, roles.items(), strict=True):
        own = knowledge[name]
        read = [*_taps("student", own), *(taps or {}).get(name, ())]
        readers[name] = TapReader(student, read, role=role)
        outputs[name] = _checked_student(role, readers[name], own, known)
        if runs is not None:
            _adopt(own, student, runs)
        inputs, models = input_specs(student), {role: student, **of_teachers}
        _build_knowledge(own, outputs[name], of_teacher, inputs, models)
    functional = [student for student in students.values() if getattr(student, "inputs", None)]
    specs = input_specs(functional[0]) if functional else None
    trunk = branches and SharedTrunk(branches, own_views=bool(views.own))
    return ForwardPass(views, specs, readers, outputs, runs, trunk)


def _leave_masks_out(views: Inputs, knowledge: list[Knowledge], models: list[keras.Model]) -> None:
    """Keeps what only masks of knowledge name among the inputs from the models."""
    specs = [input_specs(model) for model in models]
    keys = {one.mask for one in knowledge if isinstance(one.mask, str)}
    if keys and all(spec is not None for spec in specs):
        by_name = [spec for spec in specs if isinstance(spec, Mapping)]
        taken = {key for spec in by_name for key in spec}
        views.leave_out(keys - taken, by_name=bool(by_name))


def _require_all_built(
    students: Mapping[str, keras.Model], teachers: Mapping[str, keras.Model], views: Inputs
) -> tuple[Any, Any]:
    """Returns the symbolic inputs of students and of teachers; models are built for them."""
    if not views.teacher_is_apart:
        known = _require_built({**students, **teachers})
        return known, known
    # With an input of its own, the teacher does not say what the students take.
    known = _require_built(students)
    of_teachers = _require_built(teachers) if teachers else None
    return known, known if of_teachers is None else of_teachers


def _checked_teacher(runs: Teacher, everything: list[Knowledge]) -> ModelOutput:
    """Returns the teacher's symbolic output, in which what responses read is logits."""
    with activations_told(runs.models, "teacher"):
        output = runs.specs_of_output()
    # Several teachers give a list, be it of one.
    each = output.logits if runs.model is not runs.models[0] else [output.logits]
    of_all = heads.Heads(runs.reader, runs.specs)
    for model, logits in zip(runs.models, each, strict=True):
        own = of_all if runs.model is model else heads.of_model(model)
        _check_output("teacher", model, logits, everything, own)
    _check_taps("teacher", everything, of_all, runs.chosen_by)
    return output


def _checked_student(
    role: str, reader: TapReader, knowledge: list[Knowledge], known: Any
) -> ModelOutput:
    """Returns a student's symbolic output, in which what responses read is logits."""
    student = reader.model
    specs = input_specs(student)
    specs = known if specs is None else specs
    with activations_told([student], role):
        output = reader.specs(specs)
    own = heads.Heads(reader, specs)
    _check_output(role, student, output.logits, knowledge, own)
    _check_taps(role, knowledge, own, lambda taps: student)
    return output


def _adopt(knowledge: list[Knowledge], student: keras.Model, runs: Teacher) -> None:
    """Gives adapters the models whose layers they use."""
    for one in knowledge:
        if one.adapter is not None:
            model = runs.chosen_by(one.taps("teacher"))
            one.adapter.adopt(student, model)
            one.adapter.adopt_sign(functools.partial(_is_nonnegative, one, runs, model))


def _is_nonnegative(knowledge: Knowledge, runs: Teacher, model: keras.Model) -> bool:
    """Returns whether what knowledge reads of a teacher is known to have no negative numbers."""
    return all(runs.reader.is_nonnegative(tap, model) for tap in knowledge.taps("teacher"))


def _require_built(models: Mapping[str, keras.Model]) -> Any:
    """Returns the symbolic inputs of the last model that has them; models are built for them."""
    for role, model in models.items():
        checks.require_model(model, role)
    specs = [input_specs(model) for model in models.values()]
    known = next((spec for spec in reversed(specs) if spec is not None), None)
    for role, model in models.items():
        checks.ensure_built(model, known, role)
    return known


def _taps(role: str, knowledge: list[Knowledge]) -> list[str]:
    return [tap for one in knowledge for tap in one.taps(role)]


def _check_output(
    role: str, model: keras.Model, logits: Any, knowledge: list[Knowledge], known: heads.Heads
) -> None:
    """Raises unless what responses read of a model's output is logits."""
    side = role.partition(" ")[0]
    # One of several teachers is read whole by its name.
    whole = [
        one
        for one in knowledge
        if isinstance(one, Response)
        and (one.reads_logits(side) or model.name in one.taps(side))
        and (side == "student" or one.loss.needs_teacher)
    ]
    if whole:
        checks.require_single_output(logits, model, role)
        plain = all(heads.compares_plain_numbers(one.loss) for one in whole)
        known.require_logits(model, role, plain_numbers=plain)


def _check_taps(
    role: str,
    knowledge: list[Knowledge],
    known: heads.Heads,
    owner: Callable[[list[str]], keras.Model],
) -> None:
    """Raises unless the taps that responses read, of inner layers or named outputs, are logits."""
    for one in knowledge:
        for tap in one.taps(role.partition(" ")[0]) if isinstance(one, Response) else ():
            plain = heads.compares_plain_numbers(one.loss)
            known.require_logits(owner([tap]), role, tap, plain_numbers=plain)


def _build_knowledge(
    knowledge: list[Knowledge],
    student: ModelOutput,
    teacher: ModelOutput | None,
    inputs: Any,
    models: Mapping[str, keras.Model],
) -> None:
    """Builds the knowledge of a student from symbolic outputs, or says what does not fit.

    Args:
        knowledge: That of the student.
        student: Its symbolic output and features.
        teacher: The teacher's.
        inputs: The student's symbolic inputs.
        models: The student and the teachers by what messages call them.
    """
    names = [one.name for one in knowledge]
    twice = checks.repeated(names)
    if twice:
        raise ValueError(
            "Each knowledge of a student needs its own name in the logs; give one of "
            f"them another with name=. Received several named {twice}"
        )
    for one in knowledge:
        pair = one.read("student", student), one.read("teacher", teacher)
        one.build(*(_shapes(side) for side in pair))
        _require_output(one, student.logits)
        # A dry run, so that shapes that do not fit are an error here and not in the step.
        index = keras.KerasTensor((None,), "int64")
        labels = one.symbolic_labels(keras.tree.flatten(pair[0])[0])
        kept = one.kept((student, teacher), one.symbolic_mask(pair, inputs), labels)
        if kept is not None:
            one.require_masks()
        elif not isinstance(one, Response):
            one.require_no_mask_dropped(pair, models)
        looked_at = one.loss.needed_inputs()
        more = {"inputs": looked_at} if looked_at else {}
        try:
            output_spec(one, *pair, labels=labels, index=index, kept=kept, **more)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"Knowledge {one.name!r} does not fit the models: {error}") from error


def _require_output(knowledge: Knowledge, outputs: Any) -> None:
    """Raises if a knowledge takes the labels of an output that the student does not have."""
    named = list(outputs) if isinstance(outputs, Mapping) else []
    if knowledge.labels is not None and knowledge.labels not in named:
        raise ValueError(
            f"labels of knowledge {knowledge.name!r} must name one of the student's outputs, "
            f"{named if named else 'which has one without a name: leave it out'}. "
            f"Received: labels={knowledge.labels!r}"
        )


def _shapes(side: Any) -> Any:
    if isinstance(side, (list, tuple)):
        return [_shapes(feature) for feature in side]
    return None if side is None else side.shape
