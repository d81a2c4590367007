"""Stored outputs: the arrays of a cache that hold a teacher's outputs, whole or the largest."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from keras import ops

from modreduce_keras.top_k import TopK, outcomes

_CLASSES = {"uint8": 2**8, "uint16": 2**16, "int32": 2**31}
"""Dtypes of stored classes, and how many classes each can number."""


class StoredOutput(Protocol):
    """How one tensor of a teacher is stored.

    Attributes:
        given: The spec of the tensor.
        specs: Specs of its arrays, in the dtypes that they are stored in.
    """

    given: tf.TensorSpec
    specs: list[tf.TensorSpec]

    def encoded(self, value: tf.Tensor) -> list[tf.Tensor]:
        """Returns the arrays; floats are float32, and rounded when they are written."""

    def decoded(self, arrays: Sequence[tf.Tensor]) -> Any:
        """Returns what a distiller gets, from the arrays of a batch."""

    def pair(self, value: tf.Tensor, arrays: Sequence[np.ndarray]) -> tuple[Any, np.ndarray]:
        """Returns what a tensor is compared by with its arrays, and the same of the arrays."""


class Whole:
    """A tensor that is stored as it is.

    Args:
        given: Its spec.
        dtype: What it is stored in.
    """

    def __init__(self, given: tf.TensorSpec, dtype: str) -> None:
        self.given, self.specs = given, [tf.TensorSpec(given.shape, dtype)]

    def encoded(self, value: tf.Tensor) -> list[tf.Tensor]:
        return [tf.cast(value, "float32")]

    def decoded(self, arrays: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.cast(arrays[0], self.given.dtype)

    def pair(self, value: tf.Tensor, arrays: Sequence[np.ndarray]) -> tuple[Any, np.ndarray]:
        return value, arrays[0]


class Largest:
    """Logits of which the largest are stored.

    Two arrays: the log probabilities of the k largest and of all others together, (batch, ...,
    k + 1), and the k classes, (batch, ..., k), in the smallest dtype that numbers them all.
    Probabilities, because half precision rounds logits of -100 to a sixteenth, and their
    logarithms are small where it matters.

    Args:
        given: The spec of the logits.
        dtype: What the log probabilities are stored in.
        number: k, below the number of classes.
    """

    def __init__(self, given: tf.TensorSpec, dtype: str, number: int) -> None:
        positions, classes = given.shape[:-1], given.shape[-1]
        numbers = next(name for name, most in _CLASSES.items() if classes <= most)
        self.given = given
        self.specs = [
            tf.TensorSpec([*positions, number + 1], dtype),
            tf.TensorSpec([*positions, number], numbers),
        ]

    def encoded(self, value: tf.Tensor) -> list[tf.Tensor]:
        logits, classes = tf.cast(value, "float32"), self.specs[1]
        indices = tf.math.top_k(logits, classes.shape[-1]).indices
        return [_log_probabilities(logits, indices), tf.cast(indices, classes.dtype)]

    def decoded(self, arrays: Sequence[tf.Tensor]) -> TopK:
        return TopK(tf.cast(arrays[0], "float32"), tf.cast(arrays[1], "int32"))

    def pair(self, value: tf.Tensor, arrays: Sequence[np.ndarray]) -> tuple[Any, np.ndarray]:
        # Of the classes that are stored: which of equal ones are the largest is chance.
        logits, indices = tf.cast(value, "float32"), arrays[1].astype("int32")
        return _log_probabilities(logits, indices), arrays[0]


def _log_probabilities(logits: tf.Tensor, indices: Any) -> tf.Tensor:
    return ops.log_softmax(outcomes(logits, indices), axis=-1)


class StoredOutputs:
    """The arrays of a cache, and the tensors of a teacher that they hold.

    Args:
        outputs: Specs of the teacher's `"logits"` and `"features"`.
        dtype: What floats are stored in.
        top_k: How many logits of each position are stored; `None` for all. Outputs that have no
            more are stored whole.

    Raises:
        ValueError: If no output has as many classes.
    """

    def __init__(self, outputs: dict[str, Any], dtype: str, top_k: int | None) -> None:
        self._structure = outputs
        is_output = {
            "logits": tf.nest.map_structure(lambda _: True, outputs["logits"]),
            "features": tf.nest.map_structure(lambda _: False, outputs["features"]),
        }
        shapes = [tuple(spec.shape) for spec in tf.nest.flatten(outputs["logits"])]
        if top_k is not None and all(top_k > shape[-1] for shape in shapes):
            raise ValueError(
                "top_k must be at most the number of classes, the last axis of the teacher's "
                f"output. Received: {top_k=} and outputs of shapes {shapes}"
            )

        def stored(spec: tf.TensorSpec, is_output: bool) -> StoredOutput:
            if is_output and top_k is not None and spec.shape.rank > 1 and spec.shape[-1] > top_k:
                return Largest(spec, dtype, top_k)
            return Whole(spec, dtype)

        each = zip(tf.nest.flatten(outputs), tf.nest.flatten(is_output), strict=True)
        self._each = [stored(*one) for one in each]
        places = iter(range(len(self.specs)))
        self._places = [[next(places) for _ in one.specs] for one in self._each]

    @property
    def specs(self) -> list[tf.TensorSpec]:
        """Specs of all arrays."""
        return [spec for one in self._each for spec in one.specs]

    def arrays(self) -> list[tuple[list[int], str]]:
        """Returns the shape of a row and the dtype of each array."""
        return [(list(spec.shape[1:]), spec.dtype.name) for spec in self.specs]

    def described(self) -> list[list[Any]]:
        """Returns shape and dtype of each tensor as the teacher gives it, for JSON."""
        return [[list(one.given.shape[1:]), one.given.dtype.name] for one in self._each]

    def encoded(self, outputs: dict[str, Any]) -> list[tf.Tensor]:
        """Returns the arrays of a batch of outputs; floats are float32."""
        values = tf.nest.flatten(outputs)
        pairs = zip(self._each, values, strict=True)
        return [array for one, value in pairs for array in one.encoded(value)]

    def pairs(self, outputs: dict[str, Any], arrays: Sequence[np.ndarray]) -> list[tuple[Any, Any]]:
        """Returns pairs, of a batch of outputs and of stored arrays, that have to be equal."""
        values = zip(self._each, tf.nest.flatten(outputs), self._places, strict=True)
        return [one.pair(value, [arrays[n] for n in places]) for one, value, places in values]

    def chosen(self, taps: Sequence[str]) -> Any:
        """Returns the numbers of the tensors to read, for the outputs and some taps."""
        numbers = tf.nest.pack_sequence_as(self._structure, list(range(len(self._each))))
        return {**numbers, "features": {tap: numbers["features"][tap] for tap in taps}}

    def arrays_of(self, chosen: Any) -> list[int]:
        """Returns the numbers of the arrays of chosen tensors."""
        return [place for number in tf.nest.flatten(chosen) for place in self._places[number]]

    def decoded(self, chosen: Any, arrays: Sequence[tf.Tensor]) -> Any:
        """Returns the chosen tensors in their structure, from the arrays of a batch."""
        given, values = iter(arrays), []
        for number in tf.nest.flatten(chosen):
            one = self._each[number]
            values.append(one.decoded([next(given) for _ in one.specs]))
        return tf.nest.pack_sequence_as(chosen, values)
