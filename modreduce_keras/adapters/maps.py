"""What adapters on feature maps share: which shapes they take, of one tap or of several."""

from collections.abc import Sequence
from typing import Any

from modreduce_keras.adapters.base import Adapter


class MapAdapter(Adapter):
    """Base class of adapters on maps, (batch, height, width, channels)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def pairs(self, student_shape, teacher_shape) -> list[tuple[Any, Any]]:
        """Returns (student, teacher) shapes tap by tap, or says what does not fit."""
        students, teachers = _as_list(student_shape), _as_list(teacher_shape)
        shapes = [tuple(shape) for shape in (*students, *teachers)]
        if len(students) == len(teachers) and all(map(is_known, shapes)):
            return list(zip(shapes, shapes[len(students) :], strict=False))
        raise ValueError(
            f"{type(self).__name__} takes feature maps (batch, height, width, channels) of known "
            "size, as many of the student as of the teacher. Received: student of shape "
            f"{student_shape} and teacher of shape {teacher_shape}"
        )

    def pair(self, student_shape, teacher_shape) -> tuple[Any, Any]:
        """Returns the (student, teacher) shapes of the only tap, or says what does not fit."""
        pairs = self.pairs(student_shape, teacher_shape)
        if len(pairs) == 1:
            return pairs[0]
        raise ValueError(
            f"{type(self).__name__} reads one tap of each model. Received: {len(pairs)} taps"
        )


def _as_list(shape):
    several = bool(shape) and isinstance(shape[0], (list, tuple))
    return list(shape) if several else [shape]


def is_known(shape, ranks: Sequence[int] = (4,)) -> bool:
    """Returns whether this is the shape of a feature of known size, of maps unless told else."""
    one = isinstance(shape, (list, tuple)) and len(shape) in ranks
    return one and None not in shape[1:] and all(isinstance(size, int) for size in shape[1:])


def are_several(shapes, ranks: Sequence[int] = (4,)) -> bool:
    """Returns whether these are the shapes of a list of features of known size."""
    several = isinstance(shapes, (list, tuple)) and len(shapes) > 0
    return several and all(is_known(shape, ranks) for shape in shapes)
