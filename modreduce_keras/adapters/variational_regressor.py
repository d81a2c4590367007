"""The variational regressor: it predicts the teacher's maps and how sure each channel is."""

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from modreduce_keras.adapters.map_base import RANKS, MapAdapter, convolution
from modreduce_keras.arguments import is_number
from modreduce_keras.ops import pooled_to_match
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "variational_regressor")
class VariationalRegressor(MapAdapter):
    """Student maps -> mean and variance of the teacher's maps.

    μ(f_s): three 1×1 convolutions without bias, ReLU between, all as wide as the teacher's maps;
    v = softplus(α) + 1e-5, with one learnt α for each of the teacher's channels

    Maps of unequal height or width are averaged down to the smaller one first. Sequences are maps
    of one dimension. The convolutions see each position by itself, so masks are exact.

    Args:
        initial_variance: v at the start, above 1e-5. Defaults to 5.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, height, width, channels).
        teacher: (batch, height, width, channels); size and channels may differ.

    Returns:
        The student's side as [μ, log v], (batch, height, width, teacher's channels) and (batch,
        teacher's channels), and the teacher's maps at the size of μ.

    Raises:
        ValueError: If the variance is out of range, or a feature is not a map.

    Example:
        >>> import numpy as np
        >>> maps = np.ones((2, 8, 8, 4)), np.ones((2, 4, 4, 6))
        >>> (mean, log_variance), teacher = VariationalRegressor()(*maps)
        >>> tuple(mean.shape), tuple(log_variance.shape), round(float(log_variance[0, 0]), 3)
        ((2, 4, 4, 6), (2, 6), 1.609)

    Reference:
        Ahn et al., Variational Information Distillation for Knowledge Transfer, 2019, in the form
        that Tian et al., Contrastive Representation Distillation, 2020, compare on.
    """

    smallest_variance: ClassVar = 1e-5
    one_feature = True
    takes_mask = True
    ranks = RANKS

    def __init__(
        self,
        *,
        initial_variance: float = 5.0,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if not (is_number(initial_variance) and initial_variance > self.smallest_variance):
            raise ValueError(
                f"initial_variance must be above {self.smallest_variance}. "
                f"Received: {initial_variance=}"
            )
        self.initial_variance = initial_variance

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        student_shape, teacher_shape = self.pair(student_shape, teacher_shape)
        filters = teacher_shape[-1]
        self.convolutions = [
            convolution(
                len(student_shape),
                filters,
                1,
                use_bias=False,
                activation=activation,
                dtype=self.dtype_policy,
                name=f"convolution_{i}",
            )
            for i, activation in enumerate(["relu", "relu", None])
        ]
        for layer, shape in zip(
            self.convolutions, [student_shape, teacher_shape, teacher_shape], strict=True
        ):
            layer.build(shape)
        scale = self.initial_variance - self.smallest_variance
        self.log_scale = self.add_weight(
            # Where softplus is `scale`, without exp(scale), which overflows.
            initializer=keras.initializers.Constant(scale + np.log(-np.expm1(-scale))),
            shape=(filters,),
            dtype="float32",
            autocast=False,
            name="log_scale",
        )

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        masks = [(kept or {}).get(side) for side in ("student", "teacher")]
        mean, teacher = pooled_to_match(student, teacher, masks)
        for layer in self.convolutions:
            mean = layer(mean)
        log_variance = ops.log(ops.softplus(self.log_scale) + self.smallest_variance)
        return [mean, ops.tile(log_variance[None], (ops.shape(mean)[0], 1))], teacher
