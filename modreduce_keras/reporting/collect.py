"""Collecting: runs every network once over the data, and works the figures out."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from modreduce_keras.export import judging
from modreduce_keras.export.samples import batches
from modreduce_keras.output_kind import CLASSES, EMBEDDING, LABELS, LOGIT, output_kind
from modreduce_keras.reporting import answers, numbers
from modreduce_keras.reporting.gallery import Gallery
from modreduce_keras.reporting.measures import Figures
from modreduce_keras.reporting.subjects import STUDENT, TEACHER, require_logits


class Collected(NamedTuple):
    """What the networks gave.

    Attributes:
        kind: What their outputs are.
        figures: The figures of each, by name.
        galleries: The mistakes to show of each student, by its name; empty without images.
        samples: How many samples there were.
    """

    kind: str
    figures: dict[str, Figures]
    galleries: dict[str, Gallery]
    samples: int


def collect(
    subjects: Sequence[Any],
    data: Any,
    *,
    kind: str | None,
    tolerance: float,
    gallery: int,
    bins: int,
    batch_size: int,
    repeats: int,
) -> Collected:
    """Returns the figures of networks and files over the same data, each of which runs once.

    Raises:
        TypeError: If the data are something else.
        ValueError: If they have no labels, where these count, or do not fit the networks.
        VerificationError: If a file gives something other than its student.
    """
    inputs, units = subjects[0].inputs, subjects[0].units
    outputs: dict[str, list[np.ndarray]] = {one.name: [] for one in subjects}
    given: list[Any] = []
    students = [one.name for one in subjects if one.role == STUDENT]
    galleries = (
        {name: Gallery(gallery) for name in students} if _are_images(inputs, gallery) else {}
    )
    likely: Any = None
    samples = 0
    y: Any
    for x, y in batches("data", data, inputs, batch_size):
        arrays = list(x.values())
        if y is None and kind != EMBEDDING:
            raise ValueError(
                "data must have labels: give a tuple of arrays (x, y), or a dataset of batches "
                "(x, y). Received: x alone"
            )
        shape = (len(arrays[0]), units)
        if likely is None:
            likely = kind or judging.kinds_by_labels(y, shape, "report")[0]
            if likely in (CLASSES, LOGIT, LABELS):
                require_logits(subjects)
        elif kind is None and likely == CLASSES and y.shape == shape:
            likely = _kind_of(y, shape)  # a row may have several labels after all
        given.append(y)
        samples += shape[0]
        for one in subjects:
            outputs[one.name].append(one.run(arrays))
        if likely not in (CLASSES, LOGIT):
            continue
        truth = answers.truth(likely, y, shape)
        last = {name: answers.logits(likely, parts[-1]) for name, parts in outputs.items()}
        for name, shown in galleries.items():
            shown.add(arrays[0], truth, last[name], last.get(TEACHER))
    labels = np.concatenate(given) if kind != EMBEDDING else None
    everything = {name: np.concatenate(parts) for name, parts in outputs.items()}
    kind = str(kind or likely)
    work_out = answers if kind in (CLASSES, LOGIT, LABELS) else numbers
    measured = work_out.measure(
        kind,
        subjects,
        everything,
        labels,
        **({"bins": bins} if work_out is answers else {}),
        **({"tolerance": tolerance} if work_out is numbers else {}),
    )
    first = [array[:1] for array in arrays]
    figures = {
        one.name: Figures(
            name=one.name,
            role=one.role,
            owner=one.owner,
            kind=kind,
            parameters=one.parameters,
            multiply_adds=one.multiply_adds,
            size=one.size,
            milliseconds=one.milliseconds(first, repeats),
            **measured[one.name],
        )
        for one in subjects
    }
    pictured = galleries if kind in (CLASSES, LOGIT) else {}
    return Collected(kind, figures, pictured, samples)


def _kind_of(labels: np.ndarray, shape: tuple[int, int]) -> str:
    kind = output_kind(None, shape, labels)
    return kind if kind == LABELS else CLASSES


def _are_images(inputs: Any, gallery: int) -> bool:
    shapes = [tuple(spec.shape) for spec in inputs.by_name.values()]
    return gallery > 0 and len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][-1] in (1, 3)
