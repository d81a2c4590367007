"""Centred kernel alignment of the representations of a batch."""

from keras import ops

from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.ops import centred, directions, flatten
from modreduce_keras.registry import register
from modreduce_keras.typing import Labels, Tensor


@register("loss", "cka")
class CKA(RelationLoss):
    """Centred kernel alignment of the two representations of a batch, linear kernel.

    1 - ‖X_tᵀ X_s‖² / (‖X_sᵀ X_s‖ ‖X_tᵀ X_t‖), Frobenius norms, columns of X centred

    It does not change under rotation and scaling of either side. It is one number for the batch
    and counts for every sample alike.

    Args:
        name: Name of the loss. Defaults to `"cka"`.
        reduction: See `Loss`.

    Call arguments:
        y_true, y_pred: Features of teacher and student, (batch, ..., width); see `RelationLoss`.

    Returns:
        (batch,), float32, from 0 to 1; 0 for equal representations and for a batch of one.

    Example:
        >>> import numpy as np
        >>> embeddings = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> abs(round(float(CKA()(embeddings, 3.0 * embeddings[:, ::-1])), 5))
        0.0

    Reference:
        Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.
    """

    default_weight = 1.0

    def per_sample(self, teacher: Tensor, student: Tensor, labels: Labels = None) -> Tensor:
        # ‖X_tᵀ X_s‖² = Σ (X_t X_tᵀ) (X_s X_sᵀ), which is (batch, batch) whatever the widths.
        (unit_t, varies_t), (unit_s, varies_s) = (
            self._unit_gram(flatten(features)) for features in (teacher, student)
        )
        distance = ops.sum(ops.square(unit_s - unit_t)) + ops.abs(varies_t - varies_s)
        return 0.5 * distance * ops.ones((ops.shape(student)[0],), "float32")

    @staticmethod
    def _unit_gram(embeddings: Tensor) -> Tensor:
        def gram(rows: Tensor) -> Tensor:
            return ops.reshape(ops.matmul(rows, ops.transpose(rows)), (-1,))

        scale = ops.sum(ops.square(gram(embeddings)), keepdims=True)
        # The entries are products of two, so the rounding of both counts.
        return directions(gram(centred(embeddings, 0)), scale, axis=0, tolerance=1e-24)
