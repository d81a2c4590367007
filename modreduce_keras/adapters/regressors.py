"""Regressors: layers that bring the student's feature to the teacher's shape."""

from typing import ClassVar

import keras

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.maps import is_known
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.registry import register


@register("adapter", "conv_regressor")
class ConvRegressor(Adapter):
    """FitNets' convolutional regressor: student maps -> the teacher's size and channels.

    By the ratio of the sizes: a 3×3 convolution of stride 2 (the student's map is twice as
    large), a transposed 4×4 convolution of stride 2 (half as large), or a convolution without
    padding whose kernel covers the difference (1×1 for equal sizes); then batch normalization
    and ReLU.

    Args:
        batch_normalization: Whether one follows the convolution, as in the published
            comparisons. Defaults to `True`; the FitNets paper has none.
        use_relu: Whether a ReLU ends the regressor. Defaults to `True`, which fits taps after an
            activation; set it to `False` for taps that can be negative.

    Call arguments:
        student: (batch, height, width, channels).
        teacher: (batch, height, width, channels), returned as it is.

    Returns:
        The regressed student map, of the teacher's shape, and the teacher map.

    Raises:
        ValueError: If the features are not maps, or the student's is smaller than the teacher's
            but not by a factor of two.

    Example:
        >>> import numpy as np
        >>> student, teacher = ConvRegressor()(np.ones((1, 8, 8, 4)), np.ones((1, 4, 4, 6)))
        >>> tuple(student.shape)
        (1, 4, 4, 6)

    Reference:
        Romero et al., FitNets: Hints for Thin Deep Nets, 2015; the three cases as in the
        published code of Tian et al., Contrastive Representation Distillation, 2020.
    """

    example_shapes: ClassVar = [
        ((8, 8, 4), (4, 4, 6)),
        ((4, 4, 4), (8, 8, 6)),
        ((6, 6, 4), (4, 4, 6)),
    ]

    def __init__(self, *, batch_normalization: bool = True, use_relu: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.batch_normalization = batch_normalization
        self.use_relu = use_relu

    def build(self, student_shape, teacher_shape):
        if not (is_known(student_shape) and is_known(teacher_shape)):
            raise ValueError(
                "ConvRegressor regresses feature maps (batch, height, width, channels) of known "
                "size; adapter='linear_embedding' takes vectors. Received: student of shape "
                f"{tuple(student_shape)} and teacher of shape {tuple(teacher_shape)}"
            )
        arguments = self._convolution(tuple(student_shape[1:3]), tuple(teacher_shape[1:3]))
        kind = arguments.pop("kind")
        filters = teacher_shape[-1]
        self.convolution = kind(filters, dtype=self.dtype_policy, name="convolution", **arguments)
        self.convolution.build(student_shape)
        self.normalization = None
        if self.batch_normalization:
            self.normalization = normalization_layer(self.dtype_policy, "normalization")
            self.normalization.build((*teacher_shape[:3], filters))

    @staticmethod
    def _convolution(student, teacher):
        if student == (2 * teacher[0], 2 * teacher[1]):
            return {
                "kind": keras.layers.Conv2D,
                "kernel_size": 3,
                "strides": 2,
                "padding": "same",
            }
        if teacher == (2 * student[0], 2 * student[1]):
            return {
                "kind": keras.layers.Conv2DTranspose,
                "kernel_size": 4,
                "strides": 2,
                "padding": "same",
            }
        if student[0] >= teacher[0] and student[1] >= teacher[1]:
            kernel = (1 + student[0] - teacher[0], 1 + student[1] - teacher[1])
            return {"kind": keras.layers.Conv2D, "kernel_size": kernel, "padding": "valid"}
        raise ValueError(
            "ConvRegressor needs a student map of at least the teacher's size, or of half of it. "
            f"Received: student (height, width)={student}, teacher (height, width)={teacher}"
        )

    def call(self, student, teacher, training=None):
        regressed = self.convolution(student)
        if self.normalization is not None:
            regressed = self.normalization(regressed, training=training)
        return (keras.ops.relu(regressed) if self.use_relu else regressed), teacher

    def get_config(self):
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "batch_normalization": self.batch_normalization,
            "use_relu": self.use_relu,
        }
