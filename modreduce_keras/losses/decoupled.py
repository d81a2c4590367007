"""Response losses that treat the labelled class and the others apart."""

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.response import ResponseLoss, SoftenedLoss
from modreduce_keras.ops import kl_divergence
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register

# Far below every logit, and still finite when multiplied by a probability of zero.
_NOTHING = -1e9


def _decoupled(logits, labels, temperature):
    """Returns log probabilities: of the labelled class and the rest, and of the rest's classes.

    Args:
        logits: (batch, ..., classes).
        labels: Class indices, (batch, ...).
        temperature: Positive number.

    Returns:
        Of (labelled, rest), (batch, ..., 2), and of the others among themselves,
        (batch, ..., classes), where the labelled class has next to none.
    """
    target = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    scaled = logits / temperature
    # Relative to the best of the others everything small stays exact beside a huge logit.
    best = ops.max(ops.where(target, _NOTHING, scaled), axis=-1, keepdims=True)
    scaled = scaled - ops.stop_gradient(best)
    others = ops.where(target, _NOTHING, scaled)
    margin = ops.sum(ops.where(target, scaled, 0.0), axis=-1) - ops.logsumexp(others, axis=-1)
    binary = ops.stack([ops.log_sigmoid(margin), ops.log_sigmoid(-margin)], axis=-1)
    return binary, ops.where(target, _NOTHING, ops.log_softmax(others, axis=-1))


@register("loss", "dkd")
class DKD(SoftenedLoss):
    """Decoupled knowledge distillation: KD's two parts with weights of their own.

    α T² KL(b_t ‖ b_s) + β T² KL(p̂_t ‖ p̂_s)

    where b = (p_y, 1 - p_y) is the binary distribution of the labelled class y against the rest,
    and p̂ the distribution over the other classes, renormalized. KD is the case α = 1 with
    β = 1 - p_t[y] per sample.

    Args:
        target_weight: α, of the labelled class. Defaults to 1.
        nontarget_weight: β, of the other classes. Defaults to 8.
        temperature: Positive number or schedule. Defaults to 4.
        standardize: Whether logits are z-scored first (Sun et al.): (z - mean) / standard
            deviation over the classes. The paper uses `temperature=2.0` and a weight of 9 with
            it. Defaults to `False`.
        name: Name of the loss. Defaults to `"dkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A dict of `"teacher"`, the teacher's logits (batch, ..., classes), `"labels"`,
            class indices (batch, ...) or one-hot vectors (batch, ..., classes), and perhaps
            `"mask"`, see `ResponseLoss`.
        y_pred: The student's logits, (batch, ..., classes).

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If an argument is out of range, labels are missing, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[2.0, 1.0, 0.0]]), np.array([[2.0, 0.0, 1.0]])
        >>> y_true = {"teacher": teacher, "labels": np.array([0])}
        >>> round(float(DKD(temperature=1.0)(y_true, student)), 4)
        3.6969

    Reference:
        Zhao et al., Decoupled Knowledge Distillation, 2022. The paper raises the weight of the
        term linearly over the first 20 epochs: `weight=schedules.Linear(0, 1, steps=...)`. Sun et
        al., Logit Standardization in Knowledge Distillation, 2024.
    """

    needs_labels = True
    target_weight = Knob()
    nontarget_weight = Knob()

    def __init__(
        self,
        *,
        target_weight=1.0,
        nontarget_weight=8.0,
        temperature=4.0,
        standardize: bool = False,
        name=None,
        reduction="sum_over_batch_size",
    ):
        super().__init__(
            temperature=temperature, standardize=standardize, name=name, reduction=reduction
        )
        self.target_weight = target_weight
        self.nontarget_weight = nontarget_weight

    def per_position(self, teacher, student, labels=None, mask=None):
        temperature = self.temperature
        binary, others = zip(
            *(_decoupled(logits, labels, temperature) for logits in (teacher, student)),
            strict=True,
        )
        return ops.square(temperature) * (
            self.target_weight * kl_divergence(*binary)
            + self.nontarget_weight * kl_divergence(*others)
        )


@register("loss", "nkd")
class NKD(ResponseLoss):
    """Normalized knowledge distillation: cross-entropies of the labelled class and of the others.

    -p_t[y] log p_s[y] - γ T² Σ_{c≠y} p̂_t log p̂_s

    with p = softmax(z) and p̂ the distribution over the classes other than the labelled y,
    renormalized, at temperature T. Being cross-entropies, both parts keep the teacher's own
    entropy and are not zero where the student equals the teacher.

    Args:
        nontarget_weight: γ, of the other classes. Defaults to 1.5.
        temperature: Positive number or schedule, of the other classes only. Defaults to 1.
        name: Name of the loss. Defaults to `"nkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A dict of `"teacher"`, the teacher's logits (batch, ..., classes), `"labels"`,
            class indices (batch, ...) or one-hot vectors (batch, ..., classes), and perhaps
            `"mask"`, see `ResponseLoss`.
        y_pred: The student's logits, (batch, ..., classes).

    Returns:
        (batch,), float32, not negative.

    Raises:
        ValueError: If an argument is out of range, labels are missing, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> even = np.zeros((1, 3))  # ⅓ log 3 + 1.5 log 2
        >>> round(float(NKD()({"teacher": even, "labels": np.array([0])}, even)), 4)
        1.4059

    Reference:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified
        Approach with Normalized Loss and Customized Soft Labels, 2023.
    """

    needs_labels = True
    zero_at_teacher = False
    output_kinds = (CLASSES,)
    nontarget_weight = Knob()
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        nontarget_weight=1.5,
        temperature=1.0,
        name=None,
        reduction="sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction)
        self.nontarget_weight, self.temperature = nontarget_weight, temperature

    def per_position(self, teacher, student, labels=None, mask=None):
        temperature = self.temperature
        target_t, target_s = (_decoupled(z, labels, 1.0)[0][..., 0] for z in (teacher, student))
        others_t, others_s = (_decoupled(z, labels, temperature)[1] for z in (teacher, student))
        target = ops.exp(target_t) * target_s
        others = ops.sum(ops.exp(others_t) * others_s, axis=-1)
        return -target - self.nontarget_weight * ops.square(temperature) * others
