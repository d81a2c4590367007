"""SHAKE: a student and the shadow of its teacher, which teach each other."""

import math

from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.knobs import Knob
from modreduce_keras.labels import distributions, in_range
from modreduce_keras.losses.base import Loss, shapes_of
from modreduce_keras.ops import kl_divergence, tempered_log_softmax
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor

VARIANTS = ("paper", "reference")


@register("loss", "shake")
class SHAKE(Loss):
    """SHAKE: the student and a shadow head of the teacher learn from each other.

    λ T² [KL(p_h ‖ p_s) + KL(p_s ‖ p_h)] + T² KL(p_t ‖ p_h), p = softmax(z / T)

    h is the shadow head, which the adapter `"shadow_head"` puts on the frozen teacher's features
    and trains along. Each term reaches one side only, the target being a constant: the first the
    student, the other two the shadow head. The teacher itself never learns.

    `variant="reference"` is what the published code trains. All logits are standardized first,
    z̄ = 3.1415 (z - mean z) / sqrt(var z + 1e-7) over the classes, and the shadow head learns from
    the labels y and from the teacher's logits themselves, with T and λ as above:

        λ T² [KL(p̄_h ‖ p̄_s) + KL(p̄_s ‖ p̄_h)] + CE(y, z̄_h) + mean (z̄_h - z̄_t)²

    The teacher is not compared with the student directly; add `mr.Response("kd")` for that.

    Args:
        temperature: T. Positive number or schedule. Defaults to 4.
        mutual_weight: λ, of the two terms between student and shadow head. Number or schedule.
            Defaults to 1.
        variant: `"paper"` or `"reference"`. Defaults to `"paper"`.
        name: Name of the loss. Defaults to `"shake"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's logits, (batch, classes); for the reference a dict with them as
            `"teacher"`, and with `"labels"`: class indices (batch,) or (batch, 1), or
            probabilities (batch, classes), one-hot, mixed or smoothed, in the cross-entropy as they
            are.
        y_pred: The logits of those who learn, the student's and the shadow head's: a list of two,
            (batch, classes) each.

    Returns:
        (batch,), float32. In the paper's form 0 where all three are equal.

    Raises:
        ValueError: If an argument is out of range, `variant` is unknown, or the three are not
            logits of equal shape.

    Example:
        >>> import numpy as np
        >>> student, teacher = np.array([[0.0, 0.0]]), np.log([[4.0, 1.0]])
        >>> loss = SHAKE(temperature=1.0, mutual_weight=0.0)
        >>> round(float(loss(teacher, [student, student])), 4)  # ln 2 + 0.8 ln 0.8 + 0.2 ln 0.2
        0.1927

    Reference:
        Li and Jin, Shadow Knowledge Distillation: Bridging Offline and Online Knowledge Transfer,
        2022: equation 5 with λ = 1 and T = 4. The paper draws the shadow head on the student's
        backbone; its published code, like this, puts it on the teacher's. The published code also
        trains and tests the student on standardized logits; here its own loss sees them as they
        are.
    """

    default_adapter = "shadow_head"
    student_extras = 1
    output_kinds = (CLASSES,)
    takes_soft_labels = True
    temperature = Knob(positive=True)
    mutual_weight = Knob()

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        mutual_weight: float = 1.0,
        variant: str = "paper",
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature
        self.mutual_weight = mutual_weight
        self.variant = require_choice("variant", variant, VARIANTS)
        self.needs_labels = variant == "reference"

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        student, shadow = self._checked(teacher, student)
        if self.variant == "paper":
            follows = self._divergence(teacher, shadow)
        else:
            shadow, teacher, student = map(_standardized, (shadow, teacher, student))
            follows = _cross_entropy(labels, shadow) + ops.mean(
                ops.square(shadow - teacher), axis=-1
            )
        mutual = self._divergence(shadow, student) + self._divergence(student, shadow)
        return self.mutual_weight * mutual + follows

    def _divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        """Returns T² KL(target ‖ prediction), in which the target is a constant."""
        target = tempered_log_softmax(ops.stop_gradient(target), self.temperature)
        prediction = tempered_log_softmax(prediction, self.temperature)
        return ops.square(self.temperature) * kl_divergence(target, prediction)

    def _checked(self, teacher: Tensor, student: Tensor) -> Tensor:
        several = isinstance(student, (list, tuple)) and not isinstance(teacher, (list, tuple))
        if not several or len(student) != 2:
            raise ValueError(
                "SHAKE needs the teacher's logits, and the student's and the shadow head's in a "
                "list, as adapter='shadow_head' makes them. Received: "
                f"{shapes_of(teacher)} of the teacher and {shapes_of(student)} of the student"
            )
        for one in student:
            fits = len(one.shape) == len(teacher.shape) == 2 and one.shape[-1] == teacher.shape[-1]
            self.require(fits, "logits (batch, classes) of equal shape", teacher, one)
        return student


def _standardized(logits: Tensor) -> Tensor:
    centred = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    return 3.1415 * centred / ops.sqrt(variance + 1e-7)


def _cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    labels = ops.convert_to_tensor(labels)
    if tuple(labels.shape[1:]) == tuple(logits.shape[1:]):
        target = distributions(labels, SHAKE.__name__)
    else:
        labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
        labels, valid = in_range(labels, logits.shape[-1], SHAKE.__name__)
        target = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        if valid is not None:
            target = ops.where(ops.expand_dims(valid, -1), target, math.nan)
    return -ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)
