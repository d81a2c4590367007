"""Convolutional regressor: brings the student's feature to the teacher's shape."""

from collections.abc import Callable
from typing import Any

import keras

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.map_base import RANKS, convolution, grid_of, is_known, is_pointwise
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.ops import filled, mask_at, pooled_to_match
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "conv_regressor")
class ConvRegressor(Adapter):
    """FitNets' convolutional regressor: student maps -> the teacher's size and channels.

    By the ratio of the sizes: a 3×3 convolution of stride 2 (the student's map is twice as
    large), a transposed 4×4 convolution of stride 2 (half as large), or a convolution without
    padding whose kernel covers the difference (1×1 for equal sizes); then batch normalization
    and ReLU. Where the student's map is smaller along an axis, but not by half, both maps are first
    averaged down to the smaller size along each axis, and the convolution is 1×1.

    Sequences (batch, length, channels) and volumes have the same convolutions in one and in three
    dimensions. Sequences of unknown length count as equally long: 1×1 is then a dense layer on the
    channels of each token. With a 1×1 convolution the regressor takes masks: each position is
    regressed by itself, averages are over the positions that are kept, and so are the batch
    normalization's statistics.

    The tokens of a vision transformer are compared with a map as the square map of their patches,
    in rows; one or two tokens in front, such as the class token, are left out.

    Args:
        batch_normalization: Whether one follows the convolution, as in the published
            comparisons. Defaults to `True`; the FitNets paper has none.
        use_relu: Whether a ReLU ends the regressor, as in the published code. It cannot reach
            negative numbers. Defaults to `None`: in a distiller, only if the teacher's feature is
            known to have none, as after a ReLU, its pooling or a sum of several; alone, `True`.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: (batch, height, width, channels), or of another rank.
        teacher: Of the student's rank, or tokens where that is a map, or the reverse.

    Returns:
        The regressed student map and the teacher map, of equal shapes: the teacher's, or where
        both are averaged down, the smaller sizes and the teacher's channels.

    Raises:
        ValueError: If the features are not maps of one rank.

    Example:
        >>> import numpy as np
        >>> student, teacher = ConvRegressor()(np.ones((1, 8, 8, 4)), np.ones((1, 4, 4, 6)))
        >>> tuple(student.shape)
        (1, 4, 4, 6)

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, 2015; the three cases as in the
        published code of Tian et al., Contrastive Representation Distillation, 2020. Other sizes
        are ours.
    """

    one_feature = True

    def __init__(
        self,
        *,
        batch_normalization: bool = True,
        use_relu: bool | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.batch_normalization = batch_normalization
        self.use_relu = use_relu
        self.has_relu = use_relu is not False

    def adopt_sign(self, is_nonnegative: Callable[[], bool]) -> None:
        if self.use_relu is None:
            self.has_relu = is_nonnegative()

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        given = tuple(student_shape), tuple(teacher_shape)
        self.grids = [grid_of(*given), grid_of(*reversed(given))]
        student_shape, teacher_shape = shapes = [
            shape if grid is None else grid.shape(shape)
            for shape, grid in zip(given, self.grids, strict=True)
        ]
        alike = len({len(shape) for shape in shapes}) == 1
        if not (alike and all(is_known(shape, RANKS) for shape in shapes)):
            raise ValueError(
                "ConvRegressor needs two feature maps (batch, height, width, channels) of known "
                "size, two sequences (batch, length, channels), or a map and the tokens of a "
                "square of patches; "
                + (
                    "adapter='orthogonal_projector' averages over positions, of any size. "
                    if any(None in shape[1:] for shape in shapes)
                    else "adapter='linear_embedding' takes vectors, and flattens other features. "
                )
                + f"Received: student of shape {shapes[0]} and teacher of shape {shapes[1]}"
            )
        # The length of sequences may be unknown: then it is the same.
        sizes = [
            (a or b or 1, b or a or 1) for a, b in zip(*(s[1:-1] for s in shapes), strict=True)
        ]
        fitting = _convolution(sizes)
        self.averages = fitting is None
        arguments = fitting or {"size": 1, "padding": "valid"}
        if self.averages:
            student_shape, teacher_shape = (
                (shape[0], *map(min, sizes), shape[-1]) for shape in shapes
            )
        filters = teacher_shape[-1]
        self.convolution = convolution(
            len(student_shape), filters, dtype=self.dtype_policy, name="convolution", **arguments
        )
        self.convolution.build(student_shape)
        # Any other convolution reads padding into what is kept.
        self.takes_mask = is_pointwise(arguments["size"])
        self.normalization = None
        if self.batch_normalization:
            self.normalization = normalization_layer(self.dtype_policy, "normalization")
            self.normalization.build((*teacher_shape[:-1], filters))

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        kept = kept or {}
        (student, mask), (teacher, of_teacher) = (
            (tensor, kept.get(side))
            if grid is None
            else [one if one is None else grid.map(one) for one in (tensor, kept.get(side))]
            for tensor, side, grid in zip(
                (student, teacher), ("student", "teacher"), self.grids, strict=True
            )
        )
        if self.averages:
            student, teacher = pooled_to_match(student, teacher, (mask, of_teacher))
            mask = None if mask is None else mask_at(mask, student.shape[1:-1])
        regressed = self.convolution(student)
        if self.normalization is not None:
            mask = filled(mask, regressed[..., 0])
            regressed = self.normalization(regressed, training=training, mask=mask)
        return (keras.ops.relu(regressed) if self.has_relu else regressed), teacher


def _convolution(sizes: list[tuple[int, int]]) -> dict[str, Any] | None:
    """Returns the convolution between (student, teacher) sizes, `None` where there is none."""
    if all(a == 2 * b for a, b in sizes):
        return {"size": 3, "strides": 2, "padding": "same"}
    if all(b == 2 * a for a, b in sizes):
        return {"size": 4, "strides": 2, "padding": "same", "transposed": True}
    if all(a >= b for a, b in sizes):
        return {"size": tuple(1 + a - b for a, b in sizes), "padding": "valid"}
    return None
