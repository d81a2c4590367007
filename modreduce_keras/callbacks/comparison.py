"""Comparison of a distiller's students with one another and with their teacher, in one graph."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras import metrics
from modreduce_keras.ops import float32


def compare(distiller: Any, x: Any, labels: Any, classes: Mapping[str, Any]) -> dict[str, Any]:
    """Runs all students once, in inference, and compares what they say.

    Args:
        distiller: The distiller.
        x: Inputs of a batch.
        labels: Its labels, or `None`.
        classes: The teacher's top classes by student, `teacher_classes` of the same batch.

    Returns:
        What is measured, (batch,) each, by its name in the logs.

    Raises:
        ValueError: If a student's outputs are not logits (batch, classes).
    """
    outputs = distiller.forward(x, training=False, with_teacher=False, labels=labels)
    logits = _all_logits(outputs)
    values = {}
    if len(outputs.students) > 1:
        peers = ops.stack([logits[name] for name in outputs.students], axis=1)
        values["diversity"] = metrics.peer_distance(peers)
        values["agreement"] = metrics.peer_agreement(peers)
    for name, top in classes.items():
        is_same = ops.equal(ops.argmax(logits[name], axis=-1), top)
        values[distiller.term(name, "teacher_agreement")] = ops.cast(is_same, "float32")
    return values


def teacher_classes(distiller: Any, x: Any, labels: Any) -> dict[str, Any]:
    """Returns the teacher's top classes, (batch,), by student and for the ensemble.

    There are none where there is no teacher or it has other classes. In a graph, which leaves out
    what its results do not need, only the teacher runs.

    Args:
        distiller: The distiller.
        x: Inputs of a batch.
        labels: Its labels, or `None`.

    Raises:
        ValueError: If a student's outputs are not logits (batch, classes).
    """
    if distiller.teacher is None:
        return {}
    outputs = distiller.forward(x, training=False, with_teacher=True, labels=labels)
    return _teacher_classes(_all_logits(outputs), outputs.lessons)


def _all_logits(outputs: Any) -> dict[str, Any]:
    return {name: _logits(name, output) for name, output in outputs.logits().items()}


def _logits(name: str, output: Any) -> Any:
    """Returns a student's logits in float32, or says why they cannot be compared."""
    if isinstance(output, (Mapping, list, tuple)) or len(output.shape) != 2:
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), output)
        raise ValueError(
            "PeerMonitor compares logits (batch, classes). Received: student "
            f"{name!r} with outputs of shape {shapes}"
        )
    return float32(output)


def _teacher_classes(logits: Mapping[str, Any], lessons: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the teacher's top classes by student, where it has the same classes.

    Args:
        logits: Of each student, and perhaps of the ensemble.
        lessons: The teacher's output by student.
    """
    lessons = dict(lessons)
    if len({id(lesson) for lesson in lessons.values()}) == 1:
        lessons = dict.fromkeys(logits, next(iter(lessons.values())))
    tops = {id(lesson): _top_class(lesson.logits) for lesson in lessons.values()}
    found = {}
    for name, lesson in lessons.items():
        classes, top = tops[id(lesson)]
        if classes == logits[name].shape[-1]:
            found[name] = top
    return found


def _top_class(teachers: Any) -> tuple[int | None, Any]:
    """Returns the number of classes and the top ones of a teacher, or of several together."""
    several = list(teachers) if isinstance(teachers, (list, tuple)) else [teachers]
    if any(isinstance(one, Mapping) or len(one.shape) != 2 for one in several):
        return None, None
    if len({one.shape[-1] for one in several}) > 1:
        return None, None
    probabilities = sum(ops.softmax(float32(one), axis=-1) for one in several)
    # Two classes whose probabilities underflow or round to one another still differ in logits.
    scores = float32(several[0]) if len(several) == 1 else probabilities
    return scores.shape[-1], ops.argmax(scores, axis=-1)
