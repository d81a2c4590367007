"""Token projection: a dense layer on the last axis, for each position by itself."""

from typing import Any

import keras

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.arguments import require_bool
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "token_projection")
class TokenProjection(Adapter):
    """Student features -> the teacher's width, by a dense layer at each position.

    h_s W + b, on the last axis alone: sequences of any length, also of an unknown one, vectors and
    maps. There is neither an activation nor a normalization, as hidden states of transformers are
    of either sign. Positions do not mix, so masks apply to the result as they did before.

    The hidden-state loss of TinyBERT is the mean squared error behind this projection:
    `mr.Feature("hint", student="layer_2", teacher="layer_4", adapter="token_projection",
    weight=1.0)`. Its code has one W for all layers; here, each knowledge has its own.

    Args:
        use_bias: Whether there is a b. Defaults to `True`, as in the code of TinyBERT; the paper's
            equation has none.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, ..., width), such as (batch, tokens, width).
        teacher: (batch, ..., width), returned as it is.

    Returns:
        The student's feature with the teacher's width, and the teacher's feature.

    Raises:
        ValueError: If a width is not known, or a feature has no last axis beside the batch; or
            `use_bias` is neither `True` nor `False`.

    Example:
        >>> import numpy as np
        >>> student, teacher = TokenProjection()(np.ones((2, 7, 4)), np.ones((2, 7, 6)))
        >>> tuple(student.shape)
        (2, 7, 6)

    Reference:
        Jiao et al., TinyBERT: Distilling BERT for Natural Language Understanding, 2020.
    """

    one_feature = True
    takes_mask = True

    def __init__(
        self,
        *,
        use_bias: bool = True,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.use_bias = require_bool("use_bias", use_bias)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        shapes = tuple(student_shape), tuple(teacher_shape)
        if any(len(shape) < 2 or shape[-1] is None for shape in shapes):
            raise ValueError(
                "TokenProjection takes features (batch, ..., width) of known width. Received: "
                f"student of shape {shapes[0]} and teacher of shape {shapes[1]}"
            )
        self.dense = keras.layers.Dense(
            teacher_shape[-1], use_bias=self.use_bias, dtype=self.dtype_policy, name="dense"
        )
        self.dense.build(student_shape)

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        return self.dense(student), teacher
