"""Correlation congruence: how alike the samples of a batch are to each other."""

from typing import Any

from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.knobs import Knob
from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.ops import flatten, pairwise_squared_distances, unit
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


def _kernels(loss: Any, teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the mean squared difference of the kernels of each sample with all."""
    batch = ops.cast(ops.shape(student)[0], "float32")
    difference = loss.relations(student) - loss.relations(teacher)
    return ops.sum(ops.square(difference), axis=1) / batch


def _neighbours(loss: Any, teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the products of the differences of neighbours in the batch, half for each of two."""
    loss.require(
        teacher.shape[1] == student.shape[1],
        "embeddings of equal size, as adapter='paired_embedding' makes them",
        teacher,
        student,
    )
    batch = ops.cast(ops.shape(student)[0], "float32")
    distance = ops.abs(student - teacher)
    products = 0.5 * ops.sum(distance[:-1] * distance[1:], axis=1)
    with_next, with_previous = ops.pad(products, (0, 1)), ops.pad(products, (1, 0))
    return (with_next + with_previous) * batch / ops.maximum(batch - 1.0, 1.0)


VARIANTS = {"paper": _kernels, "reference": _neighbours}


@register("loss", "cc")
class CC(RelationLoss):
    """Correlation congruence: the kernel matrices of a batch of embeddings.

    1/B² Σ_ij (k_ij(s) - k_ij(t))², where k_ij = exp(-γ ‖f̂_i - f̂_j‖²) and f̂ = f / ‖f‖

    With `variant="reference"`, the published code's 1/(B - 1) Σ_i Σ_d δ_id δ_(i+1)d instead, where
    δ = |f_s - f_t|: products of neighbours in the batch. It depends on the order of the batch; half
    of each product counts for each of its two samples.

    Args:
        variant: `"paper"`, the default because it does not depend on the order of the batch, or
            `"reference"`.
        gamma: γ of the paper's kernel, a positive number or schedule. Defaults to 0.4.
        name: Name of the loss. Defaults to `"cc"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The teacher's embeddings, (batch, ...).
        y_pred: The student's embeddings, (batch, ...); of the teacher's size in the reference, of
            any size in the paper's variant.

    Returns:
        (batch,), float32; 0 where the embeddings agree, and for a batch of one.

    Raises:
        ValueError: If an argument is out of range, or the sizes differ in the reference.

    Example:
        >>> import numpy as np
        >>> apart, alike = np.eye(2), np.ones((2, 2))
        >>> round(float(CC()(apart, alike)), 4)  # (1 - exp(-0.4 · 2))² / 2
        0.1516
        >>> float(CC(variant="reference")(apart, alike))
        0.0

    Reference:
        Peng et al., Correlation Congruence for Knowledge Distillation, 2019. The paper takes the
        kernel's Taylor series up to the second power; here it is exact. The reference is the code
        of Tian et al., Contrastive Representation Distillation, 2020, which they had from the
        authors. Its weight is 0.02; that of the paper's variant, whose values lie below 1, is the
        100 of public implementations.
    """

    default_weight = 100.0
    default_adapter = "paired_embedding"
    teacher_learns = True
    gamma = Knob(positive=True)

    def __init__(
        self,
        *,
        variant: str = "paper",
        gamma: float = 0.4,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.variant, self.gamma = require_choice("variant", variant, VARIANTS), gamma
        if variant == "reference":
            self.default_weight = 0.02

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        return VARIANTS[self.variant](self, flatten(teacher), flatten(student))

    def relations(self, embeddings: Tensor) -> Any:
        return ops.exp(-self.gamma * pairwise_squared_distances(unit(embeddings)))
