"""Base classes of losses on logits: compare student and teacher position by position."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import keras
from keras import ops

from modreduce_keras.arguments import require_bool
from modreduce_keras.distribute import by_chunks
from modreduce_keras.knobs import Knob
from modreduce_keras.labels import classes_of_one_hot, in_range
from modreduce_keras.losses.base import Loss, fits
from modreduce_keras.ops import float32, standardized, zeroed
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.typing import Labels, Mask, Tensor

_LARGE = 4096
"""Classes above which logits are compared a few positions at a time."""


class ResponseLoss(Loss):
    """Base class of the losses on logits: (batch, ..., classes), with equal shapes.

    A sample may have one vector of logits, or one per position (tokens, pixels), over which its
    value is averaged. `y_true` is the teacher's logits, or a dict with the logits as `"teacher"`,
    `"labels"` if the loss needs them, and optionally a `"mask"` of the positions that count,
    (batch, ...), bool or 0 and 1. As in Keras, unmasked positions are scaled by the inverse of
    their share in the batch, so that the mean over the batch is the mean over the unmasked
    positions. Where the mask is 0, logits and labels may have any value (such as a label of 255).
    If the mask is all zeros, the value is 0.

    In `student.compile(loss=...)`, the Keras mask of the student's logits is used, unless `y_true`
    has a mask.

    Labels are class indices (batch, ...) or (batch, ..., 1), or one-hot (batch, ..., classes). A
    label out of range raises an error in eager mode, and gives NaN inside a graph. Rows that are
    not one-hot (mixed, smoothed or with several ones) raise an error, because losses that use the
    labelled class are not defined for them.

    To add a loss, override `per_position`. If the value at a position depends only on the logits of
    that position, declare `independent_positions = True`. With more than 4,096 classes,
    `per_position` is then called for a few positions at a time, and the gradient is computed beside
    the values, so that a training step needs little more memory than the gradient. Eager steps need
    twice that.

    Raises:
        ValueError: If the shapes differ, or labels that the loss needs are missing or not classes.
    """

    kind = "response"
    one_feature = True
    over_positions = "mean"
    least_classes: ClassVar[int] = 2
    independent_positions: ClassVar[bool] = False
    """Whether `per_position` may be called for some of the positions at a time."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What a base class says of its own method says nothing of another one.
        if "per_position" in vars(cls) and "independent_positions" not in vars(cls):
            cls.independent_positions = False

    def _is_large(self, logits: Any) -> bool:
        """Returns whether logits are compared a few positions at a time."""
        return (
            self.independent_positions
            and not self._gives_samples()
            and (logits.shape[-1] or 0) > _LARGE
            and keras.backend.is_float_dtype(logits.dtype)
        )

    def _cast(self, tensors: Tensor) -> Tensor:
        """Returns tensors as float32; large ones as they are, which are cast in chunks."""
        return keras.tree.map_structure(
            lambda z: ops.convert_to_tensor(z) if self._is_large(z) else float32(z), tensors
        )

    def _positions(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> tuple[Any, Any]:
        teacher, student, labels, mask = self.checked(teacher, student, labels, mask)
        valid = None
        if labels is not None:
            labels, valid = in_range(labels, student.shape[-1], type(self).__name__)
        values = self.by_rows(self.per_position, teacher, student, labels, mask)
        # NaN, as Keras' cross-entropy has it on an accelerator, and not the loss of another class.
        values = values if valid is None else ops.where(valid, values, math.nan)
        return values, mask

    def by_rows(
        self,
        function: Callable[..., Tensor],
        teacher: Tensor | None,
        student: Tensor,
        labels: Labels,
        mask: Mask,
        *others: Tensor,
    ) -> Tensor:
        """Returns the values per position, of large logits computed a few positions at a time.

        Args:
            function: `per_position`, or a function of its arguments and the others.
            teacher: As returned by `checked`.
            student: As returned by `checked`.
            labels: As returned by `checked`.
            mask: As returned by `checked`.
            *others: Further tensors that are learnt, (batch, ..., features), float32.
        """

        def compare(teacher: Any, labels: Any, mask: Any, student: Any, *others: Any) -> Tensor:
            teacher, student = self.prepared(teacher, student, mask)
            return function(teacher, student, labels, mask, *others)

        if not self._is_large(student):
            return compare(teacher, labels, mask, student, *others)
        axes = len(student.shape) - 1

        def rows(tensor: Any) -> Any:
            return None if tensor is None else ops.reshape(tensor, (-1, *tensor.shape[axes:]))

        values = by_chunks(
            compare, [rows(teacher), rows(labels), rows(mask)], [*map(rows, (student, *others))]
        )
        return ops.reshape(values, ops.shape(student)[:-1])

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        """Returns the values per position, (batch, ...). Each loss overrides it.

        Args:
            teacher: Logits, (batch, ..., classes); zero where the mask is; `None` for a loss that
                needs no teacher.
            student: Logits of the same shape.
            labels: Class indices, (batch, ...), int32, or `None`.
            mask: (batch, ...), bool, or `None`. Only what compares positions with one another has
                to look at it.
        """
        raise NotImplementedError

    def checked(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> tuple[Any, Any, Any, Any]:
        """Returns the arguments of `by_rows`, or raises if their shapes do not fit."""
        if self.needs_teacher:
            self._require_logits(teacher, student)
        else:
            self._require_logits(student, student)
            teacher = None
        if mask is not None:
            mask = ops.cast(ops.convert_to_tensor(mask), "bool")
            self._require_positions("a mask", mask, student)
        labels = None if labels is None else self._indices(labels, student, mask)
        if mask is None:
            return teacher, student, labels, None
        labels = None if labels is None else ops.where(mask, labels, 0)
        return teacher, student, labels, mask

    def prepared(self, teacher: Tensor | None, student: Tensor, mask: Mask) -> tuple[Any, Tensor]:
        """Returns the logits as `per_position` takes them: float32, and zero where the mask is."""
        # Infinite logits of padding would give a gradient of NaN if they were only left out later.
        student = zeroed(float32(student), mask)
        return None if teacher is None else zeroed(float32(teacher), mask), student

    def _require_batch(self, shapes: Any) -> None:
        """Leaves it to `checked`, by which all axes are equal."""

    def _masked(self, teacher: Tensor, student: Tensor, mask: Mask) -> tuple[Any, Any, Any]:
        return teacher, student, mask  # `checked` looks at all at once

    def _require_logits(self, teacher: Tensor, student: Tensor) -> None:
        self.require(
            fits(teacher.shape, student.shape) and len(student.shape) > 1,
            "logits (batch, ..., classes) of equal shape",
            teacher,
            student,
        )
        self.require(
            student.shape[-1] >= self.least_classes,
            "logits (batch, ..., classes) of at least two classes ('logit_mse' and 'logit_l1' take "
            "a single number, and 'binary_kd' a single logit of yes or no)",
            teacher,
            student,
        )

    def _indices(self, labels: Tensor, student: Tensor, mask: Mask) -> Tensor:
        """Returns the labelled class of each position, (batch, ...), int32."""
        labels = ops.convert_to_tensor(labels)
        if len(labels.shape) == len(student.shape) and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, -1)
        elif fits(labels.shape, student.shape):
            labels = classes_of_one_hot(labels, type(self).__name__, mask)
        self._require_positions("labels", labels, student)
        return ops.cast(labels, "int32")

    def _require_positions(self, what: str, given: Tensor, student: Tensor) -> None:
        if not fits(given.shape, student.shape[:-1]):
            one_hot = " (or one-hot)" if what == "labels" else ""
            raise ValueError(
                f"{type(self).__name__} needs {what} with one value{one_hot} for each position of "
                f"the logits. Received: {what} of shape {tuple(given.shape)} and logits of shape "
                f"{tuple(student.shape)} (the first axis is the batch)"
            )


class SoftenedLoss(ResponseLoss):
    """Base class of the losses on probabilities that a temperature softens.

    Args:
        temperature: Positive number or schedule. Defaults to 4.
        standardize: Whether logits are z-scored per position first: (z - mean) / standard
            deviation over the classes, so that their size does not matter. The temperature then
            counts in standard deviations. Sun et al. use a temperature of 2 and a weight of 9
            with it. Defaults to `False`.
        name: Name of the loss.
        reduction: See `Loss`.

    Reference:
        Sun et al., Logit Standardization in Knowledge Distillation, 2024, with the population
        standard deviation; the published code divides by classes - 1.
    """

    output_kinds = (CLASSES,)
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        standardize: bool = False,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature
        self.standardize = require_bool("standardize", standardize)

    def prepared(self, teacher: Tensor | None, student: Tensor, mask: Mask) -> tuple[Any, Tensor]:
        teacher, student = super().prepared(teacher, student, mask)
        if self.standardize:
            teacher, student = standardized(teacher), standardized(student)
        return teacher, student
