"""Response losses: the student's logits against the teacher's."""

from typing import ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import kl_divergence, per_sample_mean, tempered_log_softmax
from modreduce_keras.registry import register


class ResponseLoss(Loss):
    """Base class of the losses on logits: (batch, ..., classes), with equal shapes.

    Most compare softmax probabilities, which a single logit does not have.
    """

    example_shapes = ((10,), (10,))
    least_classes: ClassVar[int] = 2

    def require_same_shape(self, teacher, student) -> None:
        """Raises unless both sets of logits have the same shape, and enough classes."""
        self.require(
            tuple(teacher.shape[1:]) == tuple(student.shape[1:]) and len(student.shape) > 1,
            "logits (batch, ..., classes) of equal shape",
            teacher,
            student,
        )
        self.require(
            student.shape[-1] >= self.least_classes,
            "logits (batch, ..., classes) of at least two classes ('logit_mse' takes a single one)",
            teacher,
            student,
        )


@register("loss", "kd")
class KD(ResponseLoss):
    """Knowledge distillation: the softened class probabilities of the teacher.

    T² Σ_c p_t (log p_t - log p_s) with p = softmax(z / T)

    The factor T² keeps the gradient's size when the temperature changes. Axes between the batch
    and the classes are averaged over.

    Args:
        temperature: Positive number or schedule. Defaults to 4.
        name: Name of the loss. Defaults to `"kd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's logits, (batch, ..., classes).
        y_pred: The student's logits, of the same shape.

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If the temperature is not positive, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[2.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 2.0]])
        >>> round(float(KD(temperature=1.0)(teacher, student)), 4)
        1.361

    Reference:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """

    temperature = Knob(positive=True)

    def __init__(self, *, temperature=4.0, name=None, reduction="sum_over_batch_size"):
        super().__init__(name=name, reduction=reduction)
        self.temperature = temperature

    def per_sample(self, teacher, student, labels=None):
        self.require_same_shape(teacher, student)
        temperature = self.temperature
        divergence = kl_divergence(
            tempered_log_softmax(teacher, temperature), tempered_log_softmax(student, temperature)
        )
        return ops.square(temperature) * per_sample_mean(divergence)


@register("loss", "logit_mse")
class LogitMSE(ResponseLoss):
    """Logit matching: the mean squared difference of the logits.

    mean_c (z_s - z_t)²

    Args:
        name: Name of the loss. Defaults to `"logit_mse"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's logits, (batch, ..., classes).
        y_pred: The student's logits, of the same shape.

    Returns:
        (batch,), float32; 0 where both are equal.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import numpy as np
        >>> float(LogitMSE()(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]])))
        2.0

    Reference:
        Ba and Caruana, Do Deep Nets Really Need to be Deep?, 2014.
    """

    least_classes = 1

    def per_sample(self, teacher, student, labels=None):
        self.require_same_shape(teacher, student)
        return per_sample_mean(ops.square(student - teacher))
