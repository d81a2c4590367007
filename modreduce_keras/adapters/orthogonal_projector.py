"""Orthogonal projector: brings the student's feature to the teacher's width, keeping geometry."""

from typing import Any

from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.ops import mean_over_places
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "orthogonal_projector")
class OrthogonalProjector(Adapter):
    """VkD's projection: a learnt matrix that is orthogonal at every step.

    f = f_s P, P = Q of the decomposition A = Q R with a positive diagonal of R

    where A is a free matrix, the adapter's weight. Between a narrow student and a wide teacher
    the rows of P are orthonormal, P Pᵀ = I, so lengths and angles of the student's features are
    kept and no feature can be lost in the projection. Where the student is the wider one, the
    columns are: Pᵀ P = I. The decomposition runs in float32 under every dtype policy.

    Args:
        name: Name of the layer. Defaults to `"orthogonal_projector"`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, ..., channels), a vector, or a sequence or maps, which are averaged over
            their positions; with a mask over those that are kept.
        teacher: (batch, ..., channels), likewise.

    Returns:
        Two tensors (batch, features) of the teacher's width: the projected student's and the
        teacher's.

    Raises:
        ValueError: If a number of channels is not known.

    Example:
        >>> import numpy as np
        >>> student = np.array([[3.0, 4.0]])
        >>> projected, teacher = OrthogonalProjector()(student, np.ones((1, 7, 7, 5)))
        >>> tuple(projected.shape), round(float(np.linalg.norm(projected)), 4)
        ((1, 5), 5.0)

    Reference:
        Miles, Elezi and Deng, VkD: Improving Knowledge Distillation using Orthogonal Projections,
        2024. The paper reparametrises through the matrix exponential of a skew-symmetric matrix
        of the teacher's width; a decomposition of the smaller matrix reaches the same set.
    """

    one_feature = True
    takes_mask = True
    keeps_positions = False

    def __init__(
        self, *, name: str | None = None, dtype: Any = None, trainable: bool = True
    ) -> None:
        super().__init__(name=name or self.identifier, dtype=dtype, trainable=trainable)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        widths = student_shape[-1], teacher_shape[-1]
        if None in widths:
            raise ValueError(
                "OrthogonalProjector needs features with a known number of channels. Received: "
                f"student of shape {tuple(student_shape)} and teacher of shape "
                f"{tuple(teacher_shape)}"
            )
        self.widens = widths[0] <= widths[1]
        self.free = self.add_weight(
            shape=(max(widths), min(widths)),
            initializer="orthogonal",
            dtype="float32",
            autocast=False,
            name="free",
        )

    def projection(self) -> Any:
        """Returns P, (student's channels, teacher's channels), float32."""
        orthonormal, triangle = ops.qr(ops.convert_to_tensor(self.free))
        # Decompositions differ by signs, which must not jump while A moves.
        orthonormal = orthonormal * ops.cast(
            ops.where(ops.diagonal(triangle) < 0, -1, 1), "float32"
        )
        return ops.transpose(orthonormal) if self.widens else orthonormal

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        kept = kept or {}
        student = mean_over_places(student, kept.get("student"))
        return ops.matmul(student, self.projection()), mean_over_places(
            teacher, kept.get("teacher")
        )
