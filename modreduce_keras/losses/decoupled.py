"""Response losses that treat the labelled class and the others apart."""

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.response import ResponseLoss
from modreduce_keras.ops import kl_divergence, tempered_log_softmax
from modreduce_keras.registry import register


@register("loss", "dkd")
class DKD(ResponseLoss):
    """Decoupled knowledge distillation: KD's two parts with weights of their own.

    α T² KL(b_t ‖ b_s) + β T² KL(p̂_t ‖ p̂_s)

    where b = (p_y, 1 - p_y) is the binary distribution of the labelled class y against the rest,
    and p̂ the distribution over the other classes, renormalized. KD is the case α = 1 with
    β = 1 - p_t[y] per sample.

    Args:
        target_weight: α, of the labelled class. Defaults to 1.
        nontarget_weight: β, of the other classes. Defaults to 8.
        temperature: Positive number or schedule. Defaults to 4.
        name: Name of the loss. Defaults to `"dkd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: A dict of `"teacher"`, the teacher's logits (batch, classes), and `"labels"`, class
            indices (batch,) or one-hot vectors (batch, classes).
        y_pred: The student's logits, (batch, classes).

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
        term linearly over the first 20 epochs: `weight=schedules.Linear(0, 1, steps=...)`.
    """

    needs_labels = True
    target_weight = Knob()
    nontarget_weight = Knob()
    temperature = Knob(positive=True)

    def __init__(
        self,
        *,
        target_weight=1.0,
        nontarget_weight=8.0,
        temperature=4.0,
        name=None,
        reduction="sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction)
        self.target_weight = target_weight
        self.nontarget_weight = nontarget_weight
        self.temperature = temperature

    def per_sample(self, teacher, student, labels=None):
        self.require_same_shape(teacher, student)
        self.require(len(student.shape) == 2, "logits (batch, classes)", teacher, student)
        if len(labels.shape) == 2:
            labels = labels if labels.shape[1] == 1 else ops.argmax(labels, axis=-1)
            labels = ops.reshape(labels, (-1,))
        target = ops.one_hot(ops.cast(labels, "int32"), student.shape[-1], dtype="bool")
        temperature = self.temperature
        binary, others = zip(
            *(self._decoupled(logits, target, temperature) for logits in (teacher, student)),
            strict=True,
        )
        return ops.square(temperature) * (
            self.target_weight * kl_divergence(*binary)
            + self.nontarget_weight * kl_divergence(*others)
        )

    @staticmethod
    def _decoupled(logits, target, temperature):
        """Returns the log probabilities of (labelled, rest), and of the others among themselves."""
        log_p = tempered_log_softmax(logits, temperature)
        # Far below every logit, and still finite when multiplied by a probability of zero.
        without_target = ops.where(target, -1e9, log_p)
        log_rest = ops.logsumexp(without_target, axis=-1)
        log_target = ops.sum(ops.where(target, log_p, 0.0), axis=-1)
        others = ops.where(target, 0.0, log_p - log_rest[:, None])
        others = ops.where(target, -1e9, others)
        return ops.stack([log_target, log_rest], axis=-1), others
