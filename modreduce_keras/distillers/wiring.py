"""Wiring: builds models, tap readers and knowledge from symbolic features, before any training."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras

from modreduce_keras.distillers import checks, heads
from modreduce_keras.distillers.branching import SharedTrunk
from modreduce_keras.distillers.cached_teacher import frozen as frozen_teacher
from modreduce_keras.distillers.inputs import Inputs
from modreduce_keras.distillers.teacher import FrozenTeacher, models_of
from modreduce_keras.knowledge import Knowledge, Response
from modreduce_keras.symbolic import output_spec
from modreduce_keras.taps import ModelOutput, TapReader, activations_told

ENSEMBLE = "ensemble"


class Forward(NamedTuple):
    """What one forward pass of every network gave.

    Attributes:
        students: The students' outputs, by name.
        lessons: The teacher's output by student, the same one for all who see the same; empty
            without a teacher and in evaluation.
        group: What the aggregator returned; empty without one.
        index: The samples' places in the training data; `None` where the data do not say.
        seen: What each student saw.
        inputs: The inputs of the batch, as `fit` was given them, without the samples' index.
        trunk: What the layers that the students share gave; `None` where they share none.
        terms: The terms of the loss, (batch,) each, once they have been computed.
        by_position: Whether terms are to be values per position where there are such, as the
            sample weights have positions.
    """

    students: dict[str, ModelOutput]
    lessons: dict[str, ModelOutput]
    group: dict[str, Any]
    index: Any = None
    seen: Mapping[str, Any] = MappingProxyType({})
    trunk: Any = None
    terms: dict[str, Any] | None = None
    inputs: Any = None
    by_position: bool = False

    def logits(self) -> dict[str, Any]:
        """Returns the logits of every student, and of the ensemble where there is one."""
        logits = {name: output.logits for name, output in self.students.items()}
        if ENSEMBLE in self.group:
            logits[ENSEMBLE] = self.group[ENSEMBLE]
        return logits

    def lesson_of(self, student: str, knowledge: Knowledge, labels: Any) -> tuple[Any, Any]:
        """Returns what a knowledge is called with: (student, teacher), and the rest by name."""
        outputs = self.students[student], self.lessons.get(student)
        pair = tuple(map(knowledge.read, ("student", "teacher"), outputs))
        if isinstance(labels, Mapping):  # by output, where the student has several
            labels = labels.get(knowledge.student) if isinstance(knowledge.student, str) else None
        context = {"labels": labels, "index": self.index, "by_position": self.by_position}
        own = knowledge.given_mask(self.inputs)
        return pair, {**context, "kept": knowledge.kept(outputs, own, labels)}


class Wiring(NamedTuple):
    """How the models of a distiller are read.

    Attributes:
        views: What of a batch each side sees.
        specs: The students' symbolic inputs; `None` where no student is functional, as only
            functional models declare the dtype of their inputs.
        readers: Runs each student.
        outputs: Each student's symbolic output and features.
        teacher: Runs the teacher, if there is one.
        trunk: Runs students that share one; `None` where they do not.
    """

    views: Inputs
    specs: Any
    readers: dict[str, TapReader]
    outputs: dict[str, ModelOutput]
    teacher: FrozenTeacher | None
    trunk: SharedTrunk | None = None

    def seen_by(self, student: str, x: Any, training: bool = False) -> Any:
        """Returns a student's inputs of a batch, or says what is wrong with them."""
        inputs = self.views.student(student, x, training)
        models = [reader.model for reader in self.readers.values()]
        models += self.teacher.models if self.teacher else []
        checks.require_float_inputs(inputs, self.specs, models)
        return inputs

    def run(self, x: Any, training: bool | Callable[[str], bool], with_teacher: bool) -> Forward:
        """Runs every student once, and perhaps the teacher.

        Args:
            x: The inputs of a batch.
            training: Whether it is a training step, or a function that says so of each student.
            with_teacher: Whether the teacher runs.
        """
        trains = training if callable(training) else lambda student: training
        seen = {name: self.seen_by(name, x, trains(name)) for name in self.readers}
        any_trains, lessons, trunk = any(map(trains, seen)), {}, None
        if with_teacher and self.teacher:
            lessons = self.teacher.lessons(x, seen, any_trains)
        if self.trunk is not None:
            students, trunk = self.trunk(self.readers, seen, any_trains)
        else:
            students = {n: reader(seen[n], trains(n)) for n, reader in self.readers.items()}
        index, inputs = self.views.index(x), self.views.inputs(x)
        return Forward(students, lessons, {}, index, seen, trunk, {}, inputs)


def connect(
    students: Mapping[str, keras.Model],
    teacher: Any,
    knowledge: Mapping[str, list[Knowledge]],
    views: Inputs,
    *,
    teacher_dtype: str | None = None,
    taps: Mapping[str, list[str]] | None = None,
    branches: Any = None,
) -> Wiring:
    """Checks and builds everything a distiller runs.

    Args:
        students: Models to train, by name.
        teacher: A trained model, several, a cache of one, or `None`.
        knowledge: What each student is taught.
        views: What of a batch each side sees.
        teacher_dtype: What a folded copy of the teacher computes in, if one is to run.
        taps: Further taps of the students to read, by student.
        branches: The branched model that the students are of, if they are.

    Raises:
        TypeError: If something else than a Keras model came.
        ValueError: If a model cannot be built, a tap is unknown, or shapes do not fit.
    """
    teachers = models_of(teacher)
    models = {f"student {name!r}": student for name, student in students.items()}
    for number, model in enumerate(teachers):
        models["teacher" if len(teachers) == 1 else f"teacher {number}"] = model
    # With an input of its own, the teacher does not say what the students take.
    sides = len(students) if views.teacher_is_apart else len(models)
    known = _require_built(dict(list(models.items())[:sides]))
    of_teachers = _require_built(dict(list(models.items())[sides:])) if teachers else None
    checks.require_distinct(models)
    frozen = of_teacher = None
    if teachers:
        everything = [one for taught in knowledge.values() for one in taught]
        frozen = frozen_teacher(teacher, _taps("teacher", everything), views, teacher_dtype)
        if frozen.specs is None:
            frozen.specs = known if of_teachers is None else of_teachers
        with activations_told(teachers, "teacher"):
            of_teacher = frozen.specs_of_output()
        # Several teachers give a list, be it of one.
        each = of_teacher.logits if frozen.model is not teachers[0] else [of_teacher.logits]
        of_all = heads.Heads(frozen.reader, frozen.specs)
        for model, logits in zip(teachers, each, strict=True):
            own = of_all if frozen.model is model else heads.of_model(model)
            _check_output("teacher", model, logits, everything, own)
        _check_taps("teacher", everything, of_all, frozen.chosen_by)
    readers, outputs = {}, {}
    for name, student in students.items():
        role, taught = f"student {name!r}", knowledge[name]
        read = [*_taps("student", taught), *(taps or {}).get(name, ())]
        readers[name] = TapReader(student, read, role=role)
        specs = checks.input_specs(student)
        specs = known if specs is None else specs
        with activations_told([student], role):
            outputs[name] = readers[name].specs(specs)
        own = heads.Heads(readers[name], specs)
        _check_output(role, student, outputs[name].logits, taught, own)
        _check_taps(role, taught, own, lambda taps, student=student: student)
        for one in taught:
            if one.adapter is not None and frozen is not None:
                one.adapter.adopt(student, frozen.chosen_by(one.taps("teacher")))
        sides = {role: student, **{role: m for role, m in models.items() if m in teachers}}
        inputs = checks.input_specs(student)
        _build_knowledge(taught, outputs[name], of_teacher, inputs, sides)
    functional = [student for student in students.values() if getattr(student, "inputs", None)]
    specs = checks.input_specs(functional[0]) if functional else None
    trunk = branches and SharedTrunk(branches, own_views=bool(views.own))
    return Wiring(views, specs, readers, outputs, frozen, trunk)


def _require_built(models: Mapping[str, keras.Model]) -> Any:
    """Returns the symbolic inputs of the last model that has them; models are built for them."""
    for role, model in models.items():
        checks.require_model(model, role)
    specs = [checks.input_specs(model) for model in models.values()]
    known = next((spec for spec in reversed(specs) if spec is not None), None)
    for role, model in models.items():
        checks.ensure_built(model, known, role)
    return known


def _taps(role: str, taught: list[Knowledge]) -> list[str]:
    return [tap for one in taught for tap in one.taps(role)]


def _check_output(
    role: str, model: keras.Model, logits: Any, taught: list[Knowledge], known: heads.Heads
) -> None:
    """Raises unless what responses read of a model's output is logits."""
    side = role.partition(" ")[0]
    # One of several teachers is read whole by its name.
    whole = [
        one
        for one in taught
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
    taught: list[Knowledge],
    known: heads.Heads,
    owner: Callable[[list[str]], keras.Model],
) -> None:
    """Raises unless the taps that responses read, of inner layers or named outputs, are logits."""
    for one in taught:
        for tap in one.taps(role.partition(" ")[0]) if isinstance(one, Response) else ():
            plain = heads.compares_plain_numbers(one.loss)
            known.require_logits(owner([tap]), role, tap, plain_numbers=plain)


def _build_knowledge(
    taught: list[Knowledge],
    student: ModelOutput,
    teacher: ModelOutput | None,
    inputs: Any,
    models: Mapping[str, keras.Model],
) -> None:
    """Builds the knowledge of a student from symbolic outputs, or says what does not fit.

    Args:
        taught: The knowledge of the student.
        student: Its symbolic output and features.
        teacher: The teacher's.
        inputs: The student's symbolic inputs.
        models: The student and the teachers by what messages call them.
    """
    names = [one.name for one in taught]
    twice = checks.repeated(names)
    if twice:
        raise ValueError(
            "Each knowledge of a student needs a name of its own in the logs; give one of "
            f"them another with name=. Received several named {twice}"
        )
    for one in taught:
        pair = one.read("student", student), one.read("teacher", teacher)
        one.build(*(_shapes(side) for side in pair))
        # A dry run, so that shapes that do not fit are an error here and not in the step.
        positions = pair[0].shape[:-1] if isinstance(one, Response) else (None,)
        labels, index = keras.KerasTensor(positions, "int64"), keras.KerasTensor((None,), "int64")
        kept = one.kept((student, teacher), one.symbolic_mask(pair, inputs), labels)
        if kept is not None:
            one.require_masks()
        elif not isinstance(one, Response):
            one.require_no_mask_dropped(pair, models)
        try:
            output_spec(one, *pair, labels=labels, index=index, kept=kept)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"Knowledge {one.name!r} does not fit the models: {error}") from error


def _shapes(side: Any) -> Any:
    if isinstance(side, (list, tuple)):
        return [_shapes(feature) for feature in side]
    return None if side is None else side.shape
