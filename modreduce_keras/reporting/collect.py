"""Collecting: runs every network once over the data, and works the figures out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from modreduce_keras.export.samples import batches
from modreduce_keras.labels import class_indices
from modreduce_keras.reporting import measures
from modreduce_keras.reporting.gallery import Gallery
from modreduce_keras.reporting.subjects import STUDENT, TEACHER, File, Network


class Collected(NamedTuple):
    """What the networks gave.

    Attributes:
        figures: The figures of each, by name.
        galleries: The mistakes to show of each student, by its name; empty without images.
        samples: How many samples there were.
    """

    figures: dict[str, measures.Figures]
    galleries: dict[str, Gallery]
    samples: int


def collect(
    subjects: Sequence[Network | File],
    data: Any,
    *,
    gallery: int,
    bins: int,
    batch_size: int,
    repeats: int,
) -> Collected:
    """Returns the figures of networks and files over the same data, each of which runs once.

    Raises:
        TypeError: If the data are something else.
        ValueError: If they have no labels, or do not fit the networks.
        VerificationError: If a file gives something else than its student.
    """
    inputs, classes = subjects[0].inputs, subjects[0].classes
    outputs: dict[str, list[np.ndarray]] = {one.name: [] for one in subjects}
    labels: list[np.ndarray] = []
    students = [one.name for one in subjects if one.role == STUDENT]
    galleries = (
        {name: Gallery(gallery) for name in students} if _are_images(inputs, gallery) else {}
    )
    for x, y in batches("data", data, inputs, batch_size):
        arrays = list(x.values())
        if y is None:
            raise ValueError(
                "data must have labels: give a tuple of arrays (x, y), or a dataset of batches "
                "(x, y). Received: x alone"
            )
        labels.append(class_indices(y, (len(arrays[0]), classes), "report"))
        for one in subjects:
            outputs[one.name].append(one.run(arrays))
        last = {name: parts[-1] for name, parts in outputs.items()}
        for name, shown in galleries.items():
            shown.add(arrays[0], labels[-1], last[name], last.get(TEACHER))
    first = [array[:1] for array in arrays]
    truth = np.concatenate(labels)
    logits = {name: np.concatenate(parts) for name, parts in outputs.items()}
    said = {name: one.argmax(axis=1) for name, one in logits.items()}
    confusions = {name: measures.confusion(truth, one, classes) for name, one in said.items()}
    figures = {}
    for one in subjects:
        confidence = measures.probabilities(logits.pop(one.name)).max(axis=1)
        right = said[one.name] == truth
        taught = one.role != TEACHER and TEACHER in said
        own, teachers = said[one.name], said.get(TEACHER)
        figures[one.name] = measures.Figures(
            name=one.name,
            role=one.role,
            owner=one.owner,
            accuracy=float(right.mean()),
            interval=measures.wilson(float(right.mean()), len(truth)),
            confidence=float(confidence.mean()),
            calibration=measures.reliability(confidence, right, bins),
            confusion=confusions[one.name],
            agreement=float((own == teachers).mean()) if taught else None,
            together=measures.together(truth, teachers, own) if taught else None,
            changes=measures.confusion_changes(confusions[TEACHER], confusions[one.name])
            if taught
            else (),
            owner_agreement=float((own == said[one.owner]).mean()) if one.owner else None,
            parameters=one.parameters,
            multiply_adds=one.multiply_adds,
            size=one.size,
            milliseconds=one.milliseconds(first, repeats),
        )
    return Collected(figures, galleries, len(truth))


def _are_images(inputs: Any, gallery: int) -> bool:
    shapes = [tuple(spec.shape) for spec in inputs.by_name.values()]
    return gallery > 0 and len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][-1] in (1, 3)
