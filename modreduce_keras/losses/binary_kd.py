"""Knowledge distillation of independent yes-or-no answers: one logit, or several labels."""

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.ops import bernoulli_divergence
from modreduce_keras.output_kind import LABELS, LOGIT
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "binary_kd")
class BinaryKD(ResponseLoss):
    """Knowledge distillation for independent labels: one divergence per label.

    T² Σ_l [p_t log (p_t / p_s) + (1 - p_t) log ((1 - p_t) / (1 - p_s))] with p = sigmoid(z / T)

    It is what `"kd"` is to classes: for a student with one logit, with several independent labels,
    or with maps of them, which is trained by a binary cross-entropy. The labels are summed up, as
    the classes of `"kd"` are, and the axes between the batch and the labels averaged over. Keras'
    `BinaryCrossentropy` averages over the labels, so that beside it a `weight=` of 1 / labels gives
    each label the weight that it has there.

    Args:
        temperature: Positive number or schedule. Defaults to 4, as in `"kd"`.
        name: Name of the loss. Defaults to `"binary_kd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Logits of teacher and student, (batch, ..., labels); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If the temperature is not positive, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.log([[4.0, 1.0]]), np.zeros((1, 2))  # 0.8 and 0.5 against 0.5
        >>> round(float(BinaryKD(temperature=1.0)(teacher, student)), 4)  # log 2 - H(0.8, 0.2)
        0.1927

    Reference:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, for two
        classes: a logit z is that of softmax([z, 0]). With T = 1, the sum over the labels is the
        logit distillation of Yang et al., Multi-Label Knowledge Distillation, 2023, which splits
        a problem of many labels into binary ones.
    """

    independent_positions = True
    least_classes = 1
    output_kinds = (LOGIT, LABELS)
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        return bernoulli_divergence(teacher, student, self.temperature)
