"""DINO: the student's soft assignment against the teacher's centred and sharpened one."""

from typing import Any, ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import tempered_log_softmax
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "dino")
class DINO(Loss):
    """DINO: the student's soft assignment against the teacher's centred and sharpened one.

    - Σ_k p_t log p_s with p_t = softmax((f_t - c) / τ_t), p_s = softmax(f_s / τ_s)

    Each entry k of a feature is a group that nobody has named, and no labels are needed. The centre
    c is the running mean of the teacher's features, which keeps any one entry from taking all
    samples; the low τ_t sharpens, which keeps the assignment from becoming uniform. The adapter,
    `"centered_projection"`, subtracts c, and projects the student to the teacher's width.

    In the paper the teacher is the EMA of the student, under other crops, and both end in a head
    of 65,536 entries. Here the teacher is trained already and stays as it is. Of a teacher with
    such a head, tap the head; of others the features are the entries. With the embedding of a
    classifier, beside labels, the default weight is too large: a small student lost 21 points of
    accuracy with it on 10,000 images of CIFAR-100, and 6 with `weight="balanced"` (one seed). Set
    a much smaller weight, or use another loss if there are labels.

    The value is the entropy of p_t where both assign alike, not 0.

    Args:
        student_temperature: τ_s, a positive number or a schedule. Defaults to 0.1.
        teacher_temperature: τ_t, a positive number or a schedule. Defaults to 0.04, where the
            paper's warm-up begins: `mr.schedules.Linear(0.04, 0.07, steps=...)`.
        name: Name of the loss. Defaults to `"dino"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's features less the centre, (batch, ..., width).
        y_pred: The student's projected features, of the same shape.

    Returns:
        (batch,), float32: the mean over positions where there are some.

    Raises:
        ValueError: If a temperature is not positive, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0]]), np.array([[0.2, 0.0]])
        >>> round(float(DINO()(teacher, student)), 4)
        0.1269

    Reference:
        Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021. The weight
        of 1 is ours.
    """

    default_feature: ClassVar[str | None] = "embedding"
    default_adapter = "centered_projection"
    one_feature = True
    over_positions = "mean"
    student_temperature = Knob(positive=True)
    teacher_temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        student_temperature: Any = 0.1,
        teacher_temperature: Any = 0.04,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.require_equal_shapes(teacher, student)
        target = ops.softmax(teacher / self.teacher_temperature, axis=-1)
        return -ops.sum(target * tempered_log_softmax(student, self.student_temperature), axis=-1)
