"""Softmax regression representation learning: a feature, and what the teacher's classifier sees."""

from typing import ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import per_sample_mean
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "srrl")
class SRRL(Loss):
    """Softmax regression representation learning: the feature, and the teacher's logits for it.

    α mean (f_s - f_t)² + β mean (W_t f_s + b_t - z_t)²

    The adapter, `"softmax_regressor"`, brings the student's feature to the teacher's width and
    puts it through the teacher's own frozen classifier (W_t, b_t).

    Args:
        feature_weight: α, of the features. Number or schedule. Defaults to 1.
        logits_weight: β, of the logits. Number or schedule. Defaults to 1.
        name: Name of the loss. Defaults to `"srrl"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's feature and logits, [(batch, features), (batch, classes)].
        y_pred: The student's projected feature and the teacher's classifier's logits for it, of
            the same shapes.

    Returns:
        (batch,), float32; 0 where both pairs are equal.

    Raises:
        ValueError: If a weight is out of range, the sides are not pairs, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher = [np.zeros((1, 4)), np.zeros((1, 2))]
        >>> student = [np.ones((1, 4)), np.full((1, 2), 3.0)]
        >>> float(SRRL()(teacher, student))
        10.0

    Reference:
        Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, 2021,
        with equal weights and the squared difference of the logits, as in the published code.
    """

    default_feature: ClassVar[str | None] = "embedding"
    default_adapter = "softmax_regressor"
    symbols: ClassVar = {"alpha": "feature_weight", "beta": "logits_weight"}
    feature_weight = Knob()
    logits_weight = Knob()

    def __init__(
        self,
        *,
        feature_weight: float = 1.0,
        logits_weight: float = 1.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.feature_weight = feature_weight
        self.logits_weight = logits_weight

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        for side in (teacher, student):
            if not isinstance(side, (list, tuple)) or len(side) != 2:
                raise ValueError(
                    "SRRL needs a feature and logits of each side, as adapter="
                    f"'softmax_regressor' makes them. Received: {side}"
                )
        parts = []
        for one, other in zip(teacher, student, strict=True):
            self.require(one.shape[1:] == other.shape[1:], "equal shapes in each pair", one, other)
            parts.append(per_sample_mean(ops.square(other - one)))
        return self.feature_weight * parts[0] + self.logits_weight * parts[1]
