"""What `compile` prepares for a distiller: supervision, checks of labels, metrics for Keras."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from modreduce_keras.distillers import fitting, heads, metrics_of_logits, student_metrics
from modreduce_keras.distillers.labelled_metrics import of_labelled
from modreduce_keras.distillers.supervision import NamedSupervision, Supervision, supervision
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.knowledge.label_choice import require_ignored
from modreduce_keras.models.head_kinds import LOGITS
from modreduce_keras.output_kind import output_kinds


def supervised(
    distiller: Any, loss: Any
) -> tuple[Supervision | NamedSupervision | None, list[fitting.LabelCheck]]:
    """Returns the compiled loss, and what the labels have to be.

    Raises:
        ValueError: If the loss does not fit the students' heads, a part that compares their
            outputs, or what a knowledge takes for labels.
    """
    output, made = distiller.student_output(), None
    if loss:
        made = supervision(loss, output)
        for student in distiller.students.values():
            made.require_fitting_head(student)
        _require_ignored(distiller.all_knowledge(), made, output)
    kinds = output_kinds(loss, output)
    return made, fitting.require_fitting(distiller.parts_on_outputs(), kinds, loss)


def _require_ignored(
    several: Sequence[Knowledge], made: Supervision | NamedSupervision, output: Any
) -> None:
    """Raises if a knowledge takes labels for classes that the loss of their output leaves out."""
    for rule in made.label_rules(output):
        shape = (output if rule.output is None else output[rule.output]).shape
        for one in several:
            own = one.student if one.labels is None else one.labels
            if rule.output in (None, own):
                for ignored in rule.ignored:
                    require_ignored(one, ignored, rule.classes, on_maps=len(shape) == 4)


def metrics_for_keras(
    distiller: Any, given: Any, loss: Any, made: Supervision | NamedSupervision | None
) -> Any:
    """Returns metrics as Keras' `compile` takes them, for the logits of every student.

    Args:
        distiller: The distiller.
        given: What its `compile` was given.
        loss: The compiled loss.
        made: The supervision by it.
    """
    if distiller.has_several:
        given = student_metrics.for_each_student(given, distiller.measured())
    student = next(iter(distiller.students.values()))  # they are alike
    is_logits = functools.partial(_is_logits, student, made)
    made_of_logits = metrics_of_logits.for_outputs(
        given, loss, distiller.student_output(), is_logits
    )
    return None if given is None else of_labelled(made_of_logits, loss)


def _is_logits(
    student: keras.Model,
    made: Supervision | NamedSupervision | None,
    output: str | None = None,
) -> bool:
    """Returns whether a student gives logits at an output.

    Where the head cannot be told, the compiled loss says what it takes them for.
    """
    head = heads.of_model(student, output).head(output)
    if head is not None:
        return head == LOGITS
    return made is None or made.from_logits(output) is not False
