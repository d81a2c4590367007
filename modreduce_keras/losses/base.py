"""What every distillation loss shares: float32, one value per sample, a constant teacher."""

from typing import Any, ClassVar

import keras
from keras import ops

from modreduce_keras import knobs
from modreduce_keras.ops import float32


class Loss(keras.losses.Loss):
    """Base class of all distillation losses: a pure function, one value per sample.

    The value is computed in float32 under every dtype policy, and no gradient flows into the
    teacher. A loss is called in two ways:

    - `loss.call(teacher, student)` returns the values per sample, (batch,). Distillers use this:
      weights, sample weights and replicas are applied in one place there.
    - `loss(teacher, student)` returns the reduced value, as any Keras loss does, so
      `student.compile(loss=KD())` trains on stored teacher logits with no distiller at all.

    To add a loss, write `per_sample(teacher, student)`, declare `example_shapes`, register the
    class, and give it a golden number in the tests. Numbers that a user may want to change while
    training are declared with `Knob`.

    Args:
        name: Name of the loss. Defaults to its identifier.
        reduction: How a call on its own reduces the values, as in Keras. Distillers ignore it:
            they always average over all examples. Defaults to `"sum_over_batch_size"`.
    """

    identifier: ClassVar[str]
    default_weight: ClassVar[float] = 1.0
    """Weight of the term when the user names none."""
    default_adapter: ClassVar[str | None] = None
    """Identifier of the adapter that always goes with the loss, if one does."""
    needs_labels: ClassVar[bool] = False
    """Whether `y_true` is a dict with `"teacher"` and `"labels"`."""
    example_shapes: ClassVar[tuple[Any, Any]]
    """Shapes without the batch of a valid (teacher, student) pair, for the conformance tests."""

    def __init__(self, *, name: str | None = None, reduction: str | None = "sum_over_batch_size"):
        super().__init__(name=name or self.identifier, reduction=reduction, dtype="float32")

    def call(self, y_true, y_pred):
        """Returns the values per sample.

        Args:
            y_true: The teacher's tensor or list of tensors; where the loss needs more, a dict
                with `"teacher"` and `"labels"` (batch,).
            y_pred: The student's tensor or list of tensors.

        Returns:
            (batch,), float32.
        """
        student = float32(y_pred)
        if not self.needs_labels:
            return self.per_sample(self._constant(y_true), student)
        if not (isinstance(y_true, dict) and set(y_true) == {"teacher", "labels"}):
            raise ValueError(
                f"{type(self).__name__} needs labels: y_true must be a dict with the keys "
                f"'teacher' and 'labels'. Received: y_true={y_true}"
            )
        return self.per_sample(self._constant(y_true["teacher"]), student, y_true["labels"])

    @staticmethod
    def _constant(teacher):
        return keras.tree.map_structure(ops.stop_gradient, float32(teacher))

    def per_sample(self, teacher, student, labels=None):
        """Returns the values per sample from float32 tensors. To be written by each loss."""
        raise NotImplementedError

    def require(self, fits: bool, expectation: str, teacher, student) -> None:
        """Raises a `ValueError` that shows both shapes unless `fits`."""
        if not fits:
            raise ValueError(
                f"{type(self).__name__} needs {expectation}. Received: teacher of shape "
                f"{tuple(teacher.shape)} and student of shape {tuple(student.shape)} "
                "(the first axis is the batch)"
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), **knobs.config(self)}
