"""VkD: an orthogonally projected feature against the teacher's standardized one."""

from typing import ClassVar

from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import per_sample_mean, smooth_l1
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor

_EPSILON = 1e-5


@register("loss", "vkd")
class VkD(Loss):
    """VkD: an orthogonally projected feature against the teacher's standardized one.

    mean ℓ(f_s P - (f_t - μ) / √(v + 1e-5)), ℓ(d) = ½ d² where |d| < 1 and |d| - ½ elsewhere

    where μ and v are the mean and the variance of each of the teacher's features over the batch.
    P keeps lengths and angles (the adapter, `"orthogonal_projector"`), so the student's own
    feature has to change. On several replicas, the batch is that of the replica.

    Args:
        variant: `"paper"` standardizes each feature over the batch; `"reference"` standardizes
            each sample over its features (layer normalization), which does not depend on the
            batch. Defaults to `"paper"`, which the paper chooses for discriminative tasks.
        name: Name of the loss. Defaults to `"vkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's features, (batch, features).
        y_pred: The student's projected features, (batch, features).

    Returns:
        (batch,), float32; 0 where the student equals the teacher's standardized features.

    Raises:
        ValueError: If `variant` is unknown, the features are not vectors, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher = np.array([[2.0], [4.0]])
        >>> [round(float(value), 3) for value in VkD().call(teacher, np.array([[3.0], [1.5]]))]
        [3.5, 0.125]

    Reference:
        Miles, Elezi and Deng, VkD: Improving Knowledge Distillation using Orthogonal Projections,
        2024: standardization is its choice for discriminative tasks. The smooth absolute value
        and the reference variant's layer normalization are those of ports of its code; the weight
        of 1 is ours.
    """

    default_feature: ClassVar[str | None] = "embedding"
    default_adapter = "orthogonal_projector"
    one_feature = True

    def __init__(
        self,
        *,
        variant: str = "paper",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.variant = require_choice("variant", variant, ("paper", "reference"))

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        self.require(
            len(teacher.shape) == 2 and teacher.shape[1:] == student.shape[1:],
            "vectors (batch, features) of equal width",
            teacher,
            student,
        )
        axis = 0 if self.variant == "paper" else 1
        centred = teacher - ops.mean(teacher, axis=axis, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=axis, keepdims=True)
        return per_sample_mean(smooth_l1(student - centred * ops.rsqrt(variance + _EPSILON)))
