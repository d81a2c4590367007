"""Multi-level logit distillation: predictions, samples and classes at several temperatures."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from modreduce_keras.arguments import is_number
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.ops import tempered_divergence, tempered_log_softmax
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "multi_level")
class MultiLevel(ResponseLoss):
    """Multi-level logit distillation: predictions, and correlations of samples and classes.

    Σ_T [T² KL(p_t ‖ p_s) + Σ_j (G_s - G_t)²_ij + 1/C Σ_kl (M_s - M_t)²_kl] for sample i

    with the probabilities P = softmax(z / T) of the batch, (batch, C), the samples' matrix
    G = P Pᵀ and the classes' matrix M = Pᵀ P. The mean over the batch divides the samples' part
    by the batch; the classes' part is one number for the batch and counts for every sample alike.

    As in the paper, M is a sum over the samples: the classes' part grows with the square of the
    batch. The paper's batches have 64 samples (CIFAR-100) or more.

    Args:
        temperatures: Positive numbers, over which the value is summed. Defaults to 2, 3, 4, 5
            and 6.
        name: Name of the loss. Defaults to `"multi_level"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's logits, (batch, classes), or a dict of `"teacher"` and `"mask"`,
            (batch,), of the samples that count.
        y_pred: The student's logits, (batch, classes).

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If `temperatures` are not positive numbers, the shapes differ, or there are
            axes between the batch and the classes.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
        >>> # 0.5108 + (0.82 - 0.5)² + ½ ((0.81 - 0.25)² + 2 (0.09 - 0.25)² + (0.01 - 0.25)²)
        >>> round(float(MultiLevel(temperatures=[1.0])(teacher, student)), 4)
        0.8244

    Reference:
        Jin, Wang and Lin, Multi-Level Logit Distillation, 2023. Left out: its two augmented views
        of each image, and the masks that leave confident samples and classes out of one of them.
    """

    output_kinds = (CLASSES,)

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        if not (
            isinstance(temperatures, (list, tuple))
            and temperatures
            and all(is_number(t) and t > 0 for t in temperatures)
        ):
            raise ValueError(
                "temperatures must be a list of positive numbers, such as [2.0, 4.0]. "
                f"Received: {temperatures=}"
            )
        self.temperatures = [float(t) for t in temperatures]

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        self.require(
            len(student.shape) == 2,
            "logits (batch, classes), for it compares the samples of a batch with one another",
            teacher,
            student,
        )
        return sum(self._at(teacher, student, t) for t in self.temperatures)

    @staticmethod
    def _at(teacher: Tensor, student: Tensor, temperature: Any) -> Tensor:
        rows = [ops.exp(tempered_log_softmax(z, temperature)) for z in (teacher, student)]
        # A row that a mask leaves out has even probabilities on both sides: it adds the same to
        # both samples' matrices, for each row sums to one, and to both classes' matrices.
        samples_t, samples_s = (ops.matmul(p, ops.transpose(p)) for p in rows)
        classes_t, classes_s = (ops.matmul(ops.transpose(p), p) for p in rows)
        return (
            tempered_divergence(teacher, student, temperature)
            + ops.sum(ops.square(samples_s - samples_t), axis=1)
            + ops.sum(ops.square(classes_s - classes_t)) / student.shape[1]
        )
