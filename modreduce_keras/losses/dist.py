"""DIST: correlation of the probabilities, by sample and by class, instead of divergence."""

from typing import ClassVar

from keras import ops

from modreduce_keras.knobs import Knob
from modreduce_keras.losses.response_base import SoftenedLoss
from modreduce_keras.ops import centred, directions, tempered_log_softmax
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Mask, Tensor


def _uncorrelated(teacher: Tensor, student: Tensor, *, axis: int, kept: Tensor = 1.0) -> Tensor:
    """Returns 1 - Pearson's correlation along an axis, over the entries that are kept.

    As half the squared distance of unit vectors, which is exact near 0. It is 1 where one side is
    constant, and 0 where both are.
    """
    (unit_t, varies_t), (unit_s, varies_s) = (
        directions(
            centred(values, axis, kept),
            ops.sum(kept * ops.square(values), axis=axis, keepdims=True),
            axis,
        )
        for values in (teacher, student)
    )
    distance = ops.sum(ops.square(unit_s - unit_t), axis=axis)
    return 0.5 * (distance + ops.abs(varies_t - varies_s))


@register("loss", "dist")
class DIST(SoftenedLoss):
    """Knowledge distillation from a stronger teacher: correlation instead of divergence.

    T² [β (1 - ρ(p_s, p_t) per sample) + γ (1 - ρ(p_s, p_t) per class, mean over the classes)]

    with Pearson's correlation ρ and p = softmax(z / T). The second part is one number per batch,
    and every sample gets the same value. If the outputs of one side do not vary, its correlation is
    undefined; 1 - ρ is then 1, or 0 if neither side varies (as per class in a batch of one).

    Where samples have several positions, each of them is a row: the part per class runs over all
    positions of all samples that a mask keeps.

    Args:
        inter_weight: β, of the correlation over the classes of a sample. Defaults to 1.
        intra_weight: γ, of the correlation over the samples of a class. Defaults to 1.
        temperature: T, see `SoftenedLoss`. Defaults to 4.
        standardize: Whether logits are z-scored first, see `SoftenedLoss`. Defaults to `False`.
        name: Name of the loss. Defaults to `"dist"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Logits of teacher and student, (batch, ..., classes); see `ResponseLoss`.

    Returns:
        (batch,), float32; 0 where the probabilities are proportional up to a constant.

    Raises:
        ValueError: If an argument is out of range, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> teacher, student = np.array([[2.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 2.0]])
        >>> round(float(DIST(temperature=1.0)(teacher, student)), 4)
        1.5

    Reference:
        Huang et al., Knowledge Distillation from A Stronger Teacher, 2022; Sun et al., Logit
        Standardization in Knowledge Distillation, 2024.
    """

    symbols: ClassVar = {"beta": "inter_weight", "gamma": "intra_weight"}
    inter_weight = Knob()
    intra_weight = Knob()

    def __init__(
        self,
        *,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
        temperature: float = 4.0,
        standardize: bool = False,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(
            temperature=temperature, standardize=standardize, name=name, reduction=reduction
        )
        self.inter_weight, self.intra_weight = inter_weight, intra_weight

    def per_position(
        self, teacher: Tensor, student: Tensor, labels: Labels = None, mask: Mask = None
    ) -> Tensor:
        temperature = self.temperature
        of_teacher, of_student = (
            ops.exp(tempered_log_softmax(z, temperature)) for z in (teacher, student)
        )
        inter = _uncorrelated(of_teacher, of_student, axis=-1)
        rows = [ops.reshape(p, (-1, p.shape[-1])) for p in (of_teacher, of_student)]
        kept = 1.0 if mask is None else ops.reshape(ops.cast(mask, "float32"), (-1, 1))
        intra = ops.mean(_uncorrelated(rows[0], rows[1], axis=0, kept=kept))
        return ops.square(temperature) * (self.inter_weight * inter + self.intra_weight * intra)
