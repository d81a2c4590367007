"""Knowledge distillation: the divergence of softened class probabilities."""

from modreduce_keras.losses.response_base import SoftenedLoss
from modreduce_keras.ops import tempered_divergence
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "kd")
class KD(SoftenedLoss):
    """Knowledge distillation: the softened class probabilities of the teacher.

    T² Σ_c p_t (log p_t - log p_s) with p = softmax(z / T)

    The factor T² keeps the gradient's size when the temperature changes. Axes between the batch
    and the classes are averaged over. Labels that do not exclude one another are compared by
    `"binary_kd"`.

    Args:
        temperature: Positive number or schedule. Defaults to 4.
        standardize: Whether logits are z-scored first (Sun et al.): (z - mean) / standard
            deviation over the classes. The paper uses `temperature=2.0` and a weight of 9 with
            it. Defaults to `False`.
        name: Name of the loss. Defaults to `"kd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Logits of teacher and student, (batch, ..., classes); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where both give the same probabilities.

    Raises:
        ValueError: If the temperature is not positive, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[2.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 2.0]])
        >>> round(float(KD(temperature=1.0)(teacher, student)), 4)
        1.361
        >>> twice = KD(temperature=1.0, standardize=True)(teacher, 2.0 * teacher)
        >>> abs(round(float(twice), 4))
        0.0

    Reference:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015; Sun et al.,
        Logit Standardization in Knowledge Distillation, 2024.
    """

    independent_positions = True

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        return tempered_divergence(teacher, student, self.temperature)
