"""Comparison of a distiller's students with one another and with their teacher, in one graph."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras import metrics
from modreduce_keras.ops import float32
from modreduce_keras.output_kind import CLASSES, EMBEDDING, LABELS, LOGIT, REGRESSION, output_kind


def compare(distiller: Any, x: Any, labels: Any, classes: Mapping[str, Any]) -> dict[str, Any]:
    """Runs all students once, in inference, and compares their answers.

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
    binary, values = _is_binary(distiller, logits), {}
    if len(outputs.students) > 1:
        peers = ops.stack([logits[name] for name in outputs.students], axis=1)
        kind = LABELS if binary else CLASSES
        values["diversity"] = metrics.peer_distance(peers, kind)
        values["agreement"] = metrics.peer_agreement(peers, kind)
    for name, top in classes.items():
        own = logits[name] > 0 if binary else ops.argmax(logits[name], axis=-1)
        is_same = float32(ops.equal(own, top))
        same = ops.mean(is_same, axis=-1) if binary else is_same
        values[distiller.log_name(name, "teacher_agreement")] = same
    return values


def _is_binary(distiller: Any, logits: Mapping[str, Any]) -> bool:
    """Returns whether each logit is a yes or no of its own, by the compiled loss."""
    units = next(iter(logits.values())).shape[-1]
    kind = output_kind(distiller.loss, (None, units))
    if kind in (REGRESSION, EMBEDDING):
        raise ValueError(
            "PeerMonitor compares classes or labels. Received: a compiled loss of "
            f"{kind}, {distiller.loss!r}"
        )
    return kind in (LOGIT, LABELS) or units == 1


def teacher_classes(distiller: Any, x: Any, labels: Any) -> dict[str, Any]:
    """Returns the teacher's top classes, (batch,), by student and for the ensemble.

    Of labels, each yes or no, it is whether the teacher says yes, (batch, labels).

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
    logits = _all_logits(outputs)
    return _teacher_classes(logits, outputs.teacher, _is_binary(distiller, logits))


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


def _teacher_classes(
    logits: Mapping[str, Any], outputs: Mapping[str, Any], binary: bool
) -> dict[str, Any]:
    """Returns the teacher's top classes by student, where it has the same classes.

    Args:
        logits: Of each student, and perhaps of the ensemble.
        outputs: The teacher's output by student.
        binary: Whether each logit is a yes or no of its own.
    """
    outputs = dict(outputs)
    if len({id(output) for output in outputs.values()}) == 1:
        outputs = dict.fromkeys(logits, next(iter(outputs.values())))
    tops = {id(output): _top_class(output.logits, binary) for output in outputs.values()}
    found = {}
    for name, output in outputs.items():
        classes, top = tops[id(output)]
        if classes == logits[name].shape[-1]:
            found[name] = top
    return found


def _top_class(teachers: Any, binary: bool) -> tuple[int | None, Any]:
    """Returns the number of classes and the top ones of a teacher, or of several together."""
    several = list(teachers) if isinstance(teachers, (list, tuple)) else [teachers]
    if any(isinstance(one, Mapping) or len(one.shape) != 2 for one in several):
        return None, None
    if len({one.shape[-1] for one in several}) > 1:
        return None, None
    if binary:
        yes = sum(ops.sigmoid(float32(one)) for one in several) / len(several)
        first = float32(several[0])
        return first.shape[-1], first > 0 if len(several) == 1 else yes > 0.5
    probabilities = sum(ops.softmax(float32(one), axis=-1) for one in several)
    # Two classes whose probabilities underflow or round to one another still differ in logits.
    scores = float32(several[0]) if len(several) == 1 else probabilities
    return scores.shape[-1], ops.argmax(scores, axis=-1)
