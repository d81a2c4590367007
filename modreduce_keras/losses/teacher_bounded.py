"""Teacher-bounded regression: the labels, as long as the student is worse than its teacher."""

from typing import Any, ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss, fits
from modreduce_keras.ops import along_positions
from modreduce_keras.output_kind import REGRESSION
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "teacher_bounded")
class TeacherBounded(Loss):
    """Teacher-bounded regression: the labels count while the student is worse than its teacher.

    ‖s - y‖² where ‖s - y‖² + m > ‖t - y‖², else 0

    The outputs of a teacher of numbers may be any, and even contrary to the labels y, so that the
    student does not learn them: they only tell where it is good enough.

    Args:
        margin: m, a number that is not negative or a schedule: how much better than the teacher is
            good enough. Defaults to 0.
        name: Name of the loss. Defaults to `"teacher_bounded"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A dict of `"teacher"`, outputs (batch, ..., units), of `"labels"`, numbers of that
            shape, or without the last axis where there is one unit, and perhaps of a `"mask"`,
            (batch, ...).
        y_pred: The student's outputs.

    Returns:
        (batch,), float32; the mean over the positions; 0 where the student is nowhere worse than
        the teacher, if the margin is 0.

    Raises:
        ValueError: If the margin is negative, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> y = {"teacher": np.array([[1.0], [2.0]]), "labels": np.array([[3.0], [2.5]])}
        >>> loss = TeacherBounded(reduction=None)  # the student is 1 and 1 off, the teacher 2, 0.5
        >>> [float(value) for value in loss(y, np.array([[4.0], [1.5]]))]
        [0.0, 1.0]

    Reference:
        Chen et al., Learning Efficient Object Detection Models with Knowledge Distillation, 2017.
        It stands beside the loss on the labels, with the paper's weight of 0.5.
    """

    kind = "response"
    default_weight = 0.5
    least_classes: ClassVar[int] = 1
    one_feature = True
    over_positions = "mean"
    needs_labels = True
    label_numbers = True
    output_kinds = (REGRESSION,)
    margin = Knob()

    def __init__(
        self,
        *,
        margin: float = 0.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.margin = margin

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.require(
            fits(teacher.shape, student.shape) and len(student.shape) > 1,
            "outputs (batch, ..., units) of equal shape",
            teacher,
            student,
        )
        labels = self._numbers(labels, student)
        if mask is not None:
            labels = ops.where(along_positions(mask, student), labels, 0.0)
        of_teacher, of_student = (
            ops.sum(ops.square(side - labels), axis=-1) for side in (teacher, student)
        )
        return ops.where(of_student + self.margin > of_teacher, of_student, 0.0)

    def _numbers(self, labels: Any, student: Tensor) -> Tensor:
        labels = ops.cast(ops.convert_to_tensor(labels), "float32")
        if student.shape[-1] == 1 and len(labels.shape) == len(student.shape) - 1:
            labels = ops.expand_dims(labels, -1)
        if not fits(labels.shape, student.shape):
            raise ValueError(
                f"{type(self).__name__} needs labels y that are numbers, one for each output. "
                f"Received: labels of shape {tuple(labels.shape)} and outputs of shape "
                f"{tuple(student.shape)} (the first axis is the batch)"
            )
        return labels
