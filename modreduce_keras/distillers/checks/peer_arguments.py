"""What peers are made from: students by name, and arguments and knowledge by student."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from modreduce_keras import registry
from modreduce_keras.arguments import is_number
from modreduce_keras.calls import did_you_mean, shown
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.optimizers import TRUNK
from modreduce_keras.distillers.step.forward import ENSEMBLE, Outputs
from modreduce_keras.distillers.step.group import AGGREGATOR
from modreduce_keras.distillers.step.splitting import keys_of_parts
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.knowledge.shorthand import resolved, unused
from modreduce_keras.losses.base import Loss

_TAKEN = (ENSEMBLE, AGGREGATOR, TRUNK)


def by_student(argument: str, given: Any, students: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what was given for all students, in their order or by name, by name."""
    if isinstance(given, (list, tuple)) and len(given) == len(students):
        given = dict(zip(students, given, strict=True))
    elif given is None:
        given = {}
    elif not isinstance(given, (Mapping, list, tuple)):
        given = dict.fromkeys(students, given)
    if not isinstance(given, Mapping) or set(given) - set(students):
        raise ValueError(
            f"{argument} must be one for all students, a list with one for each, or a dict by "
            f"student, one of {list(students)}. Received: {given}"
        )
    return dict(given)


def named_students(students: Any) -> dict[str, keras.Model]:
    """Returns the students by name, or raises if they are invalid."""
    if isinstance(students, keras.Model):
        if not hasattr(students, "heads"):
            raise TypeError(
                "students must be a dict or a list of models, or what mr.models.branch returns; "
                "mr.ModReduce(recipe='peer_averaging') takes one model and copies it. "
                f"Received: the model {students.name!r}"
            )
        students = students.students
    checks.require_students(students)
    if not isinstance(students, Mapping):
        names = [student.name for student in students]
        twice = checks.repeated(names)
        if twice:
            raise ValueError(
                "Students in a list are told apart by their models' names. Name the models "
                f"differently, or give a dict by name. Received twice: {twice}"
            )
        students = dict(zip(names, students, strict=True))
    if len(students) < 2:
        raise ValueError(
            "Peers teach one another, so there must be at least two students (mr.Distiller trains "
            f"one). Received: {list(students)}"
        )
    unusable = [n for n in students if "/" in n or n in _TAKEN or not n]
    if unusable:
        raise ValueError(
            "Names of students begin the names of their logs and must not contain '/' or be one "
            f"of {_TAKEN}. Received: {unusable}"
        )
    return dict(students)


def checked_knowledge(knowledge: Any, students: Any, teacher: Any) -> dict[str, list[Knowledge]]:
    """Returns the knowledge by student, or says what does not go together."""
    checks.require_by_student("knowledge", knowledge, "{'a': 'kd', 'b': 'dist'}")
    checks.require_teacher(teacher)
    unknown = sorted(set(knowledge or {}) - set(students))
    if unknown:
        hint = did_you_mean(unknown[0], students)
        raise ValueError(
            f"knowledge must be given by student, one of {list(students)}.{hint} "
            f"Received: {unknown}"
        )
    for name, student in students.items():
        checks.require_model(student, f"student {name!r}")
    given = {name: keras.tree.flatten(several) for name, several in (knowledge or {}).items()}
    objects = [id(o) for each in given.values() for o in each if isinstance(o, Knowledge)]
    if len(set(objects)) < len(objects):
        raise ValueError(
            "Each student needs knowledge objects of its own, because they hold its adapters. "
            "Received: the same object for several students"
        )
    knowledge = {
        name: resolved(several, students[name], teacher)
        for name, several in (knowledge or {}).items()
    }
    checks.require_knowledge_and_teacher(
        teacher, [one for several in knowledge.values() for one in several]
    )
    return knowledge


def require_no_exchange(online_weight: Any, online_loss: Any) -> None:
    """Raises if arguments were given that do nothing where peers do not learn from one another."""
    weighs = not is_number(online_weight) or online_weight not in (0, 1)  # 1 is the default
    given = {"online_weight": online_weight} if weighs else {}
    given |= {} if online_loss is None else {"online_loss": online_loss}
    if given:
        raise ValueError(
            "With aggregator=None, students do not learn from one another's outputs, so that "
            "online_weight and online_loss would do nothing: leave them out, or name an "
            f"aggregator. Received: {given}"
        )


def online_loss(given: Any, output: Any, temperature: float) -> Loss:
    """Returns the online loss that an argument stands for; the default depends on the outputs."""
    if given is None:
        identifier = "binary_kd" if getattr(output, "shape", (None,))[-1] == 1 else "kd"
        given = registry.get("loss", identifier, temperature=temperature)
    loss = unused(registry.get("loss", given, Loss))
    checks.require_online_loss(loss)
    return loss


def keys_of_splits(
    split_batches: Any, given: Sequence[Any], students: Mapping[str, Any]
) -> list[str]:
    """Returns the key of each student's part, or raises if another argument says something else.

    Args:
        split_batches: Has to be `True`.
        given: Values of `aggregator`, `student_inputs` and `teacher_input`.
        students: The students, by name.
    """
    if split_batches is not True:
        raise TypeError(f"split_batches must be True or False. Received: {split_batches=}")
    names = ("aggregator", "student_inputs", "teacher_input")
    others = {n: value for n, value in zip(names, given, strict=True) if value is not None}
    if others:
        raise ValueError(
            "With split_batches=True, each student sees samples of its own, and the teacher the "
            "same. It goes with aggregator=None, because students cannot learn from one another's "
            f"outputs then, and without student_inputs and teacher_input. Received: {shown(others)}"
        )
    return keys_of_parts(len(students))


def _have_own_samples(outputs: Outputs) -> bool:
    return any(outputs.batch_of(name) is not outputs.batch for name in outputs.students)


def require_same_view(outputs: Outputs, teacher_input: Any) -> None:
    """Raises if a teacher does not see what students with samples of their own see."""
    if teacher_input is not None and _have_own_samples(outputs):
        raise ValueError(
            "Where students have samples of their own, the teacher sees what each student sees: "
            "leave out teacher_input=, and preprocess inside of the models. Received: "
            f"teacher_input={teacher_input!r}"
        )


def require_same_samples(outputs: Outputs) -> None:
    """Raises if students that learn from one another's outputs see different samples."""
    if _have_own_samples(outputs):
        raise ValueError(
            "The labels, weights or index are given by student, so the students see different "
            "samples and cannot learn from one another's outputs: give aggregator=None, or data "
            "in which all students see the same samples. Received: a dict by the keys of "
            "student_inputs"
        )
