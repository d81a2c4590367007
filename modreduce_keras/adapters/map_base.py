"""The base of the adapters on feature maps: which shapes they take, of one tap or of several."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from modreduce_keras.adapters.base import Adapter

_CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}
_TRANSPOSED = {
    3: keras.layers.Conv1DTranspose,
    4: keras.layers.Conv2DTranspose,
    5: keras.layers.Conv3DTranspose,
}
RANKS = tuple(_CONVOLUTIONS)
"""Ranks of sequences (batch, length, channels), maps and volumes."""


def is_pointwise(size: Any) -> bool:
    """Returns whether a convolution of this size sees each position by itself."""
    return set(size if isinstance(size, tuple) else (size,)) == {1}


def convolution(
    rank: int, filters: int, size: Any, *, transposed: bool = False, **kwargs: Any
) -> Any:
    """Returns a convolution of Keras for sequences, maps or volumes, by their rank.

    Of sequences and volumes, that of size 1 is a dense layer on the channels.
    """
    if rank != 4 and is_pointwise(size):
        # The same numbers, and TensorFlow's Conv1D fails on an empty batch (a replica's last one).
        kwargs = {name: value for name, value in kwargs.items() if name != "padding"}
        return keras.layers.Dense(filters, **kwargs)
    return (_TRANSPOSED if transposed else _CONVOLUTIONS)[rank](filters, size, **kwargs)


class MapAdapter(Adapter):
    """Base class of adapters on maps, (batch, height, width, channels)."""

    ranks: ClassVar[Sequence[int]] = (4,)
    """Ranks of what it takes."""

    def __init__(
        self, *, name: str | None = None, dtype: Any = None, trainable: bool = True
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)

    def pairs(self, student_shape: Any, teacher_shape: Any) -> list[tuple[Any, Any]]:
        """Returns (student, teacher) shapes tap by tap, or says what does not fit."""
        students, teachers = _as_list(student_shape), _as_list(teacher_shape)
        shapes = [tuple(shape) for shape in (*students, *teachers)]
        pairs = list(zip(shapes, shapes[len(students) :], strict=False))
        alike = len(students) == len(teachers) and all(len(a) == len(b) for a, b in pairs)
        if alike and all(is_known(shape, self.ranks) for shape in shapes):
            return pairs
        sequences = ", or sequences (batch, length, channels)," if 3 in self.ranks else ""
        raise ValueError(
            f"{type(self).__name__} takes feature maps (batch, height, width, channels){sequences} "
            "of known size, as many of the student as of the teacher. Received: student of shape "
            f"{student_shape} and teacher of shape {teacher_shape}"
        )

    def pair(self, student_shape: Any, teacher_shape: Any) -> tuple[Any, Any]:
        """Returns the (student, teacher) shapes of the only tap, or says what does not fit."""
        pairs = self.pairs(student_shape, teacher_shape)
        if len(pairs) == 1:
            return pairs[0]
        raise ValueError(
            f"{type(self).__name__} reads one tap of each model, such as at='stage2', and a "
            f"knowledge of its own each further one. Received: {len(pairs)} taps"
        )


def _as_list(shape: Any) -> Any:
    several = bool(shape) and isinstance(shape[0], (list, tuple))
    return list(shape) if several else [shape]


def is_known(shape: Any, ranks: Sequence[int] = (4,)) -> bool:
    """Returns whether this is the shape of a feature of known size, by default of maps.

    Of sequences, only the number of channels has to be known.
    """
    if not (isinstance(shape, (list, tuple)) and len(shape) in ranks):
        return False
    sizes = shape[-1:] if len(shape) == 3 else shape[1:]
    return all(isinstance(size, int) for size in sizes)


def are_several(shapes: Any, ranks: Sequence[int] = RANKS) -> bool:
    """Returns whether these are the shapes of a list of features, of which all sizes are known."""
    several = isinstance(shapes, (list, tuple)) and len(shapes) > 0
    return several and all(is_known(one, ranks) and None not in one[1:] for one in shapes)


class Grid(NamedTuple):
    """The patches of an image among the tokens of a transformer.

    Attributes:
        front: Number of tokens in front of them: a class token, one that is distilled into.
        side: Number of patches in each row and column.
    """

    front: int
    side: int

    def shape(self, tokens: Any) -> tuple[Any, ...]:
        """Returns the shape of the map that tokens of a shape are."""
        return (tokens[0], self.side, self.side, *tokens[2:])

    def map(self, tokens: Any) -> Any:
        """Returns tokens, (batch, tokens, ...), as a map, (batch, side, side, ...)."""
        return ops.reshape(tokens[:, self.front :], (-1, *self.shape(tokens.shape)[1:]))


def grid_of(shape: Any, other: Any) -> Grid | None:
    """Returns the grid of tokens that are compared with a map; `None` of anything else.

    Args:
        shape: (batch, tokens, channels): a square number of tokens, or one or two more.
        other: What they are compared with.
    """
    if not (len(shape) == 3 and len(other) == 4 and isinstance(shape[1], int)):
        return None
    for front in range(3):
        side = math.isqrt(max(shape[1] - front, 0))
        if side > 1 and side * side == shape[1] - front:
            return Grid(front, side)
    return None
