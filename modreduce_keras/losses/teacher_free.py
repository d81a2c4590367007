"""Teacher-free distillation: a hand-made teacher that is always right."""

import math
from typing import Any

from keras import ops

from modreduce_keras.arguments import is_number, require_choice
from modreduce_keras.knobs import Knob
from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.ops import kl_divergence, tempered_divergence, tempered_log_softmax
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


def _softened(target: Tensor, right: Any, wrong: Any, student: Tensor, temperature: Any) -> Tensor:
    """Returns T² KL(softmax(log p_d / T) ‖ softmax(z_s / T))."""
    hand_made = ops.cast(ops.where(target, math.log(right), math.log(wrong)), "float32")
    return tempered_divergence(hand_made, student, temperature)


def _published(target: Tensor, right: Any, wrong: Any, student: Tensor, temperature: Any) -> Tensor:
    """Returns KL(softmax(p_d / T) ‖ softmax(z_s))."""
    hand_made = ops.cast(ops.where(target, right, wrong), "float32")
    return kl_divergence(
        tempered_log_softmax(hand_made, temperature), ops.log_softmax(student, axis=-1)
    )


VARIANTS = {"paper": _softened, "reference": _published}


@register("loss", "teacher_free")
class TeacherFree(ResponseLoss):
    """Teacher-free distillation (Tf-KD_reg): a hand-made teacher that is always right.

    T² KL(p_d^T ‖ p_s^T), where p_d gives a to the labelled class and (1 - a) / (C - 1) to each
    of the others, p_d^T = softmax(log p_d / T) and p_s^T = softmax(z_s / T)

    Its neighbour is label smoothing: at T = 1 this is, but for a constant, the cross-entropy with
    a smoothing of ε = (1 - a) C / (C - 1).

    Args:
        correct_probability: a, of the labelled class, above 0 and below 1. Defaults to 0.99.
        temperature: Positive number or schedule. Defaults to 20.
        variant: `"paper"`, the equation above, or `"reference"`, as the published code computes
            it: KL(softmax(p_d / T) ‖ softmax(z_s)), whose target is a softmax of probabilities,
            nearly uniform, against the student at temperature 1, and no factor T². The code then
            takes the mean over the C classes too and multiplies by 100, which is 100 / C of this:
            a matter of the weight. Defaults to `"paper"`, whose target is the hand-made teacher
            and not nearly uniform.
        name: Name of the loss. Defaults to `"teacher_free"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The labels: class indices (batch, ...) or one-hot vectors (batch, ..., classes);
            or a dict of `"labels"` and `"mask"`, see `ResponseLoss`.
        y_pred: The student's logits, (batch, ..., classes).

    Returns:
        (batch,), float32; 0 where the student gives the hand-made probabilities.

    Raises:
        ValueError: If an argument is out of range, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> loss = TeacherFree(correct_probability=0.8, temperature=1.0)
        >>> round(float(loss(np.array([0]), np.zeros((1, 2)))), 4)  # log 2 - H(0.8, 0.2)
        0.1927

    Reference:
        Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, 2020,
        which has no factor T²: it is here so that the temperature does not change the gradient's
        size, as in `"kd"`. The default weight is that of the published code, beside 0.9 of the
        cross-entropy.
    """

    independent_positions = True
    default_weight = 0.1
    needs_labels = True
    needs_teacher = False
    output_kinds = (CLASSES,)
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        correct_probability: float = 0.99,
        temperature: float = 20.0,
        variant: str = "paper",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        if not (is_number(correct_probability) and 0 < correct_probability < 1):
            raise ValueError(
                "correct_probability must be a number above 0 and below 1. "
                f"Received: {correct_probability=}"
            )
        self.correct_probability = correct_probability
        self.variant = require_choice("variant", variant, VARIANTS)
        self.temperature = temperature

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        classes = student.shape[-1]
        right, wrong = self.correct_probability, (1 - self.correct_probability) / (classes - 1)
        target = ops.one_hot(labels, classes, dtype="bool")
        return VARIANTS[self.variant](target, right, wrong, student, self.temperature)
