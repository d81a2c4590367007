"""Confidence penalty: the negative entropy of the student, without a teacher."""

from keras import ops

from modreduce_keras.losses.response_base import ResponseLoss
from modreduce_keras.output_kind import CLASSES
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


@register("loss", "confidence_penalty")
class ConfidencePenalty(ResponseLoss):
    """Confidence penalty: the negative entropy of the student's probabilities.

    -H(p_s) = Σ_c p_s log p_s with p_s = softmax(z_s)

    It is lowest, -log(classes), where all classes are equally likely. It is a term beside the
    cross-entropy; on its own it only flattens.

    Args:
        name: Name of the loss. Defaults to `"confidence_penalty"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: Nothing that counts: anything, such as the labels of `fit`, or a dict of `"mask"`,
            see `ResponseLoss`.
        y_pred: The student's logits, (batch, ..., classes).

    Returns:
        (batch,), float32, from -log(classes) to 0.

    Raises:
        ValueError: If the student's output is not logits of at least two classes.

    Example:
        >>> import numpy as np
        >>> round(float(ConfidencePenalty()(np.array([0]), np.zeros((1, 4)))), 4)  # -log 4
        -1.3863

    Reference:
        Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output Distributions,
        2017, without the threshold and the annealing that it tries: `weight=` takes a schedule.
    """

    independent_positions = True
    default_weight = 0.1
    needs_teacher = False
    output_kinds = (CLASSES,)

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        log_p = ops.log_softmax(student, axis=-1)
        return ops.sum(ops.exp(log_p) * log_p, axis=-1)
