"""Contrastive distillation: pairs of one sample told from pairs of two samples."""

from keras import ops

from modreduce_keras.losses.base import Loss
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "crd")
class CRD(Loss):
    """Contrastive representation distillation: noise-contrastive estimation, both ways.

    -log [P⁺ / (P⁺ + K Pₙ)] - Σ_k log [K Pₙ / (P_k⁻ + K Pₙ)], with noise Pₙ = 1/n, for the
    student's embedding against the teacher's and the other way round, added up

    The loss takes log density ratios a = log (P / Pₙ); in them, one direction is
    -log σ(a₀ - log K) - Σ_k log σ(log K - a_k). The adapter makes them: it embeds the
    features and holds what the negatives come from. `"contrastive_memory"`, the default, needs to
    know how many training samples there are, so it is given: `adapter=mr.adapters.get(
    "contrastive_memory", samples=50000)`; `"contrastive_queue"` needs nothing.

    Args:
        name: Name of the loss. Defaults to `"crd"`.
        reduction: See `Loss`.

    Call arguments:
        y_true: The log ratios of the teacher's embeddings against the student's,
            (batch, 1 + negatives), those of the positive pairs in the first column.
        y_pred: The log ratios of the student's embeddings against the teacher's, of the same
            shape. A very negative ratio leaves its pair out.

    Returns:
        (batch,), float32; it is positive, and not least where the student equals the teacher.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import numpy as np
        >>> undecided = np.log([[2.0, 2.0, 2.0]])  # K = 2: each of 2 · 3 pairs costs log 2
        >>> round(float(CRD()(undecided, undecided) / np.log(2.0)), 4)
        6.0

    Reference:
        Tian, Krishnan and Isola, Contrastive Representation Distillation, 2020. The published
        code adds 1e-7 to each denominator P + K Pₙ; the log space here needs no such number.
    """

    kind = "relation"
    default_weight = 0.8
    default_adapter = "contrastive_memory"
    teacher_learns = True
    one_feature = True

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        self.require(
            len(student.shape) == 2 and tuple(teacher.shape[1:]) == tuple(student.shape[1:]),
            "log density ratios (batch, 1 + negatives) of both sides, as "
            "adapter='contrastive_memory' and 'contrastive_queue' make them",
            teacher,
            student,
        )
        return self._direction(student) + self._direction(teacher)

    @staticmethod
    def _direction(log_ratios: Tensor) -> Tensor:
        candidates = ops.shape(log_ratios)[1]
        negatives = ops.cast(candidates - 1, "float32")
        odds = log_ratios - ops.log(ops.maximum(negatives, 1.0))
        # Signs instead of slices, whose gradients would each be padded to all candidates.
        signs = ops.cast(ops.where(ops.arange(candidates) == 0, -1, 1), "float32")
        return ops.sum(ops.softplus(signs * odds), axis=1)
