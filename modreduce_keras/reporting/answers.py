"""Answers: the figures of networks that answer with a class, or with yes or no.

One logit z is taken for the two classes no and yes with the logits 0 and z, whose softmax is its
sigmoid; each of several independent labels of a sample for an answer of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modreduce_keras.export import judging
from modreduce_keras.output_kind import CLASSES, LABELS
from modreduce_keras.reporting import measures
from modreduce_keras.reporting.subjects import TEACHER


def logits(kind: str, outputs: np.ndarray) -> np.ndarray:
    """Returns the logits of each answer, (answers, classes)."""
    if kind == CLASSES:
        return outputs
    return np.stack([np.zeros_like(outputs), outputs], axis=-1).reshape(-1, 2)


def truth(kind: str, labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the right class of each answer, (answers,)."""
    return judging.truth(kind, labels, shape, "report").astype("int64").ravel()


def measure(
    kind: str,
    subjects: Sequence[Any],
    outputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    bins: int,
) -> dict[str, dict[str, Any]]:
    """Returns the figures that tell answers apart, of each network and file by its name.

    Args:
        kind: `"classes"`, `"logit"` or `"labels"`.
        subjects: The networks and files.
        outputs: What each put out, (samples, units).
        labels: Of all samples.
        bins: Of confidence.
    """
    samples, units = next(iter(outputs.values())).shape
    right = truth(kind, labels, (samples, units))
    of_each = {name: logits(kind, one) for name, one in outputs.items()}
    classes = next(iter(of_each.values())).shape[1]
    said = {name: one.argmax(axis=1) for name, one in of_each.items()}
    confusions = {name: measures.confusion(right, one, classes) for name, one in said.items()}
    found = {}
    for one in subjects:
        confidence = measures.probabilities(of_each.pop(one.name)).max(axis=1)
        own = said[one.name]
        teachers: Any = said.get(TEACHER)
        correct = own == right
        accuracy = float(correct.mean())
        taught = one.role != TEACHER and TEACHER in said
        found[one.name] = {
            "accuracy": accuracy,
            # The answers for one sample do not come by chance each.
            "interval": measures.normal_interval(correct.reshape(samples, units).mean(axis=1))
            if kind == LABELS
            else measures.wilson(accuracy, samples),
            "confidence": float(confidence.mean()),
            "calibration": measures.reliability(confidence, correct, bins),
            "confusion": confusions[one.name],
            "agreement": float((own == teachers).mean()) if taught else None,
            "together": measures.together(right, teachers, own) if taught else None,
            "changes": measures.confusion_changes(confusions[TEACHER], confusions[one.name])
            if taught and kind != LABELS
            else (),
            "owner_agreement": float((own == said[one.owner]).mean()) if one.owner else None,
        }
    return found
