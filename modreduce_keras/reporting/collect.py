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

_PICTURED = (CLASSES, LOGIT)
_ANSWERS = (CLASSES, LOGIT, LABELS)
"""Kinds of outputs that answer by a class, or by yes or no; others are numbers."""


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
    inputs = subjects[0].inputs
    answered = _Answered(subjects, kind, gallery if _are_images(inputs) else 0)
    for x, y in batches("data", data, inputs, batch_size):
        arrays = list(x.values())
        answered.add(arrays, y)
    kind = answered.kind
    options = {"bins": bins} if kind in _ANSWERS else {"tolerance": tolerance}
    work_out = answers if kind in _ANSWERS else numbers
    measured = work_out.measure(kind, subjects, answered.outputs(), answered.labels(), **options)
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
    pictured = answered.galleries if kind in _PICTURED else {}
    return Collected(kind, figures, pictured, answered.samples)


class _Answered:
    """What networks and files have answered, while they run over the data.

    Args:
        subjects: The networks and files.
        kind: What their outputs are; `None`: what the labels are.
        gallery: How many images to show of each student.
    """

    def __init__(self, subjects: Sequence[Any], kind: str | None, gallery: int):
        self._subjects, self._given = subjects, kind
        self._outputs: dict[str, list[np.ndarray]] = {one.name: [] for one in subjects}
        self._labels: list[Any] = []
        students = [one.name for one in subjects if one.role == STUDENT] if gallery > 0 else []
        self.galleries = {name: Gallery(gallery) for name in students}
        self.samples = 0
        self._likely: Any = None

    def add(self, arrays: list[np.ndarray], y: Any) -> None:
        """Runs every network and file on a batch."""
        if y is None and self._given != EMBEDDING:
            raise ValueError(
                "data must have labels: give a tuple of arrays (x, y), or a dataset of batches "
                "(x, y). Received: x alone"
            )
        shape = (len(arrays[0]), self._subjects[0].units)
        self._look_at(y, shape)
        self._labels.append(y)
        self.samples += shape[0]
        for one in self._subjects:
            self._outputs[one.name].append(one.run(arrays))
        if self._likely in _PICTURED:
            truth = answers.truth(self._likely, y, shape)
            last = {n: answers.logits(self._likely, each[-1]) for n, each in self._outputs.items()}
            for name, shown in self.galleries.items():
                shown.add(arrays[0], truth, last[name], last.get(TEACHER))

    def _look_at(self, y: Any, shape: tuple[int, int]) -> None:
        """Tells by the labels what the outputs are."""
        if self._likely is None:
            self._likely = self._given or judging.kinds_by_labels(y, shape, "report")[0]
            if self._likely in _ANSWERS:
                require_logits(self._subjects)
        elif self._given is None and self._likely == CLASSES and y.shape == shape:
            self._likely = _kind_of(y, shape)  # a row may have several labels after all

    @property
    def kind(self) -> str:
        """What the outputs are."""
        return str(self._given or self._likely)

    def outputs(self) -> dict[str, np.ndarray]:
        """Returns the outputs for all data, by name."""
        return {name: np.concatenate(parts) for name, parts in self._outputs.items()}

    def labels(self) -> np.ndarray | None:
        """Returns all labels, if they count."""
        return np.concatenate(self._labels) if self._given != EMBEDDING else None


def _kind_of(labels: np.ndarray, shape: tuple[int, int]) -> str:
    kind = output_kind(None, shape, labels)
    return kind if kind == LABELS else CLASSES


def _are_images(inputs: Any) -> bool:
    shapes = [tuple(spec.shape) for spec in inputs.by_name.values()]
    return len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][-1] in (1, 3)
