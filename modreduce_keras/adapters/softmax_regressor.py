"""Softmax regressor: SRRL's connector, judged by the teacher's classifier."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.classifier_base import (
    ClassifierAdapter,
    classifier_of,
    frozen_logits,
)
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.ops import filled, mean_over_places
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "softmax_regressor")
class SoftmaxRegressor(ClassifierAdapter):
    """SRRL's connector and the teacher's classifier, which judges the student's feature too.

    f = mean over the positions of ReLU(BN(W f_s)), W to the teacher's width; its logits W_t f + b_t

    The teacher's classifier stays as it is: gradients pass through it and not into it.

    Args:
        use_relu: Whether a ReLU ends the connector, as in the published code. It cannot reach
            negative numbers. Defaults to `None`: in a distiller, only if the teacher's feature is
            known to have none, as after a ReLU, its pooling or a sum of several; alone, `True`.
        name: See `Adapter`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: The student's last feature, (batch, ..., channels): maps or a vector.
        teacher: The teacher's feature before its classifier, (batch, ..., channels): the last
            maps or their average.

    Returns:
        Two lists [feature (batch, features), logits (batch, classes)]: the student's projected
        feature with the teacher's classifier's logits for it, and the teacher's with its own.

    Raises:
        ValueError: If no models were adopted, the teacher does not end in a Dense layer, or that
            layer does not take the feature's channels.

    Example:
        >>> import numpy as np
        >>> import modreduce_keras as mr
        >>> adapter = SoftmaxRegressor()
        >>> adapter.adopt(*(mr.models.convnet(num_classes=5, widths=(w,)) for w in (4, 8)))
        >>> student, teacher = adapter(np.ones((2, 4)), np.ones((2, 8)))
        >>> [tuple(tensor.shape) for tensor in student]
        [(2, 8), (2, 5)]

    Reference:
        Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, 2021,
        with the connector of the published code.
    """

    one_feature = True
    takes_mask = True
    keeps_positions = False

    def __init__(
        self,
        *,
        use_relu: bool | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.use_relu = use_relu
        self.has_relu = use_relu is not False

    def adopt_sign(self, is_nonnegative: Callable[[], bool]) -> None:
        if self.use_relu is None:
            self.has_relu = is_nonnegative()

    def _taken_from(self, student: Tensor, teacher: Tensor) -> tuple[Any]:
        return (classifier_of(teacher),)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        if self._classifiers is not None:
            self.require_width("teacher", teacher_shape, *self.classifiers())
        units = teacher_shape[-1]
        self.connector = keras.layers.Dense(
            units,
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name="connector",
        )
        self.normalization = normalization_layer(self.dtype_policy, "normalization")
        self.connector.build(student_shape)
        self.normalization.build((*student_shape[:-1], units))

    def call(
        self, student: Tensor, teacher: Tensor, training: bool | None = None, kept: Any = None
    ) -> Any:
        of_student, of_teacher = map((kept or {}).get, ("student", "teacher"))
        student = self.connector(student)
        mask = filled(of_student, student[..., 0])
        student = self.normalization(student, training=training, mask=mask)
        student = ops.relu(student) if self.has_relu else student
        return self._with_logits(student, of_student), self._with_logits(teacher, of_teacher)

    def _with_logits(self, feature: Tensor, kept: Any) -> list[Any]:
        feature = mean_over_places(feature, kept)
        (classifier,) = self.classifiers()
        return [feature, frozen_logits(classifier, feature)]
