"""Batch: the data of one step, split into inputs, labels, weights and index."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from modreduce_keras.batches import split_index


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of training or evaluation data.

    Attributes:
        x: The inputs, with everything that the data pipeline has added to them.
        y: The labels, or `None`.
        sample_weight: (batch,), or (batch, positions...), or a dict of those by output, or `None`.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None

    @classmethod
    def from_data(
        cls, data: Any, check_labels: Callable[[Any], Any] = lambda labels: labels
    ) -> Any:
        """Returns the batch in what Keras gives to `train_step` and its siblings.

        Args:
            data: `x`, `(x, y)` or `(x, y, sample_weight)`.
            check_labels: Returns the labels to use, or raises if they do not fit the outputs.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        require_known_rank("y", y)
        return cls(x, check_labels(y), sample_weight)

    @property
    def inputs(self) -> Any:
        """The inputs without the samples' index and stored teacher outputs."""
        return split_index(self.x)[0]

    @property
    def index(self) -> Any:
        """The index of each sample in the training data, (batch,); `None` where there is none."""
        return split_index(self.x)[1]

    @property
    def examples(self) -> Any:
        """The number of examples on this replica, a scalar."""
        return ops.shape(keras.tree.flatten(self.x)[0])[0]

    @property
    def by_position(self) -> bool:
        """Whether sample weights are of positions (tokens, pixels), so that terms have to be."""
        return have_positions(self.sample_weight)


def have_positions(sample_weight: Any) -> bool:
    """Returns whether sample weights, or those of an output, are of positions and not of examples.

    Positions are tokens, pixels or time steps.
    """
    each = [] if sample_weight is None else keras.tree.flatten(sample_weight)
    require_known_rank("sample_weight", sample_weight)
    return any(len(without_last_axis_of_one(weight).shape) > 1 for weight in each)


def require_known_rank(name: str, values: Any) -> None:
    """Raises if the data do not say their rank, or others came before in the same compiled step."""
    each = [] if values is None else keras.tree.flatten(values)
    if any(getattr(getattr(one, "shape", None), "rank", 1) is None for one in each):
        # What a step does follows the rank. After calls of several ranks TensorFlow makes one step
        # for all of them, and a trace cannot tell this from a dataset whose own spec has none.
        raise ValueError(
            f"{name} has an unknown number of axes: tf.ensure_shape({name}, (None,)) in the "
            "dataset sets it after tf.py_function and the like, (None, None) for one per "
            "position. If calls before had other axes, (batch, 1) after (batch,), one per position "
            "after one per example, or the reverse: compile the distiller again first. "
            f"Received: {name} of unknown shape"
        )


def without_last_axis_of_one(weight: Any) -> Any:
    """Returns a column of weights as one value per example."""
    is_column = len(weight.shape) == 2 and weight.shape[1] == 1
    return ops.squeeze(weight, axis=1) if is_column else weight
