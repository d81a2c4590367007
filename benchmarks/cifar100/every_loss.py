"""Every loss of the catalogue on CIFAR-100, with its default or a balanced weight.

The labels have weight 1. A balanced weight makes the loss as large as theirs in the first step.

Each is set up as `benchmarks.catalogue` has it. CRD takes the protocol's number of negatives, and
the cosine distance a projection to the teacher's width.
"""

from functools import partial
from typing import Any

import modreduce_keras as mr
from benchmarks import catalogue
from benchmarks.cifar100.every_loss_table import BALANCED, DEFAULT
from benchmarks.cifar100.methods import Task, Trainee, contrastive
from modreduce_keras.registry import components

WEIGHTS = {DEFAULT: None, BALANCED: "balanced"}
"""Weights of the loss, by the group of the methods."""


def with_one_loss(task: Task, identifier: str, weight: str | None = None) -> Trainee:
    """One student that learns from the labels and by one loss."""
    student = task.network("student")
    arguments: dict[str, Any] = {"weight": weight, "samples": task.protocol.samples}
    arguments["batch_size"] = task.protocol.batch
    if identifier == "crd":
        arguments["adapter"] = contrastive(task)[0].adapter
    if identifier == "cosine":
        arguments["adapter"] = "token_projection"
    if not components("loss")[identifier].needs_teacher:
        knowledge = catalogue.knowledge_for(identifier, **arguments)
        return Trainee(mr.Distiller(student=student, teacher=None, knowledge=[knowledge]))
    teacher = getattr(task.teacher, "teacher", task.teacher)
    model = mr.Distiller(
        student=catalogue.student_for(identifier, student, teacher),
        teacher=task.teacher,
        knowledge=[catalogue.knowledge_for(identifier, **arguments)],
    )
    return Trainee(model, teachers=1)


def identifiers() -> list[str]:
    """Returns the losses that this protocol can train by.

    Not those that have a stage of their own or an adapter that learns beforehand, whose lengths
    the protocol does not say; nor OFD, which reads the teacher before an activation, where the
    cache has nothing; nor losses of independent labels.
    """
    return [name for name in catalogue.identifiers() if not _is_left_out(name)]


def _is_left_out(identifier: str) -> bool:
    loss = components("loss")[identifier]
    adapter = components("adapter").get(loss.default_adapter, mr.adapters.Adapter)
    learns_before = adapter.pretraining_loss is not mr.adapters.Adapter.pretraining_loss
    return loss.staged or learns_before or identifier == "ofd" or catalogue.is_of_labels(identifier)


GROUPS = {
    group: {
        f"{group}/{name}": partial(with_one_loss, identifier=name, weight=weight)
        for name in identifiers()
    }
    for group, weight in WEIGHTS.items()
}
"""Methods by group, one for each loss: `"default/kd"`, `"balanced/kd"`."""
EVERY_LOSS = {name: method for group in GROUPS.values() for name, method in group.items()}
ALONE = tuple(
    name for name in EVERY_LOSS if not components("loss")[name.partition("/")[2]].needs_teacher
)
"""Methods of this file without a teacher."""
