"""Every loss of the catalogue on CIFAR-100, with its default weight beside the labels' 1.

Each is set up as `benchmarks.catalogue` has it. CRD takes the protocol's number of negatives, and
the cosine distance a projection to the teacher's width.
"""

from functools import partial

import modreduce_keras as mr
from benchmarks import catalogue
from benchmarks.cifar100.methods import Task, Trainee, contrastive
from modreduce_keras.registry import components

PREFIX = "default/"


def with_default_weight(task: Task, identifier: str) -> Trainee:
    """One student that learns from the labels and by one loss."""
    student = task.network("student")
    arguments = {"samples": task.protocol.samples, "batch_size": task.protocol.batch}
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


EVERY_LOSS = {
    f"{PREFIX}{name}": partial(with_default_weight, identifier=name) for name in identifiers()
}
ALONE = tuple(
    name for name in EVERY_LOSS if not components("loss")[name.removeprefix(PREFIX)].needs_teacher
)
"""Methods of this file without a teacher."""
