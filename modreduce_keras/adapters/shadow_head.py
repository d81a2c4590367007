"""SHAKE's shadow head: a trainable head on the frozen teacher's features."""

from typing import Any

import keras
from keras import ops

from modreduce_keras.adapters.classifier_base import (
    ClassifierAdapter,
    classifier_of,
    frozen_logits,
)
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.ops import mean_over_places
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


class _Unit(keras.layers.Layer):
    """A convolution without bias, batch normalization and ReLU."""

    def __init__(
        self, filters: int, kernel_size: int, strides: tuple[int, int] = (1, 1), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.convolution = keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "normal"),
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.normalization = normalization_layer(self.dtype_policy, "normalization")

    def build(self, shape: Any) -> None:
        self.convolution.build(shape)
        self.normalization.build(self.convolution.compute_output_shape(shape))

    def call(self, maps: Tensor, training: bool | None = None) -> Any:
        return ops.relu(self.normalization(self.convolution(maps), training=training))


@register("adapter", "shadow_head")
class ShadowHead(ClassifierAdapter):
    """The shadow of a frozen teacher: a head on its features that can learn from the student.

    On one feature, a vector or maps that are averaged, the head is one layer that begins as a
    copy of the teacher's classifier, z_h = W f_t + b with W = W_t, b = b_t: at first the shadow
    says what the teacher says.

    On several maps m_1 ... m_n, from the larger to the smaller, it is the published code's:

        x_1 = m_1,  x_{i+1} = U3(x_i) + U1(m_{i+1}),  z_h = W_t mean(U3(x_n)) + b_t

    where U is a convolution without bias (3×3, which brings the map to the next one's size and
    channels, or 1×1), batch normalization and ReLU; the mean is over positions. The teacher's
    classifier (W_t, b_t) stays as it is there, and gradients pass through it.

    The last tap of the teacher reads its logits, and the student's tap its own:

        mr.Feature("shake", student="logits", teacher=["stage1", "stage2", "stage3", "logits"])
        mr.Feature("shake", student="logits", teacher=["embedding", "logits"])

    Args:
        name: Name of the layer. Defaults to `"shadow_head"`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: The student's logits, (batch, classes).
        teacher: A list: the teacher's feature or features, (batch, ..., channels), and at its end
            the teacher's logits, (batch, classes).

    Returns:
        The list of the student's logits, as they are, and the shadow head's; and the teacher's
        logits. All are (batch, classes).

    Raises:
        ValueError: If no models were adopted, the teacher does not end in a Dense layer that takes
            the last feature's channels, the features are not as above, or the numbers of classes
            differ.

    Example:
        >>> import numpy as np
        >>> import modreduce_keras as mr
        >>> adapter = ShadowHead()
        >>> adapter.adopt(*(mr.models.convnet(num_classes=5, widths=(w,)) for w in (4, 8)))
        >>> (_, shadow), _ = adapter(np.ones((2, 5)), [np.ones((2, 8)), np.ones((2, 5))])
        >>> tuple(shadow.shape), adapter.count_params()
        ((2, 5), 45)

    Reference:
        Li and Jin, Shadow Knowledge Distillation: Bridging Offline and Online Knowledge Transfer,
        2022. The paper draws the head on the student's backbone; on several maps it is that of the
        published code, except that its convolutions follow the maps' sizes, which are halves
        there. The head on one feature is ours, the cheapest that can follow the student.
    """

    def __init__(
        self, *, name: str | None = None, dtype: Any = None, trainable: bool = True
    ) -> None:
        # Logits must not be rounded to a lower precision on their way.
        super().__init__(
            name=name or self.identifier, dtype=dtype, trainable=trainable, autocast=False
        )

    def _taken_from(self, student: Tensor, teacher: Tensor) -> tuple[Any]:
        return (classifier_of(teacher),)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        *features, logits = self._checked(student_shape, teacher_shape)
        if self._classifiers is not None:
            self.require_width("teacher", features[-1], *self.classifiers())
        self.head: Any = None
        self.units = []
        if len(features) == 1:
            self._build_head(features[0][-1], logits[-1])
            return
        larger, *rest = features
        for number, smaller in enumerate(rest):
            down = self._unit(smaller[-1], 3, f"down_{number}", _strides(larger, smaller))
            side = self._unit(smaller[-1], 1, f"side_{number}")
            down.build(larger)
            side.build(smaller)
            self.units.append((down, side))
            larger = smaller
        self.last = self._unit(larger[-1], 3, "last")
        self.last.build(larger)

    def _build_head(self, channels: int, classes: int) -> None:
        has_bias = self._classifiers is None or self.classifiers()[0].use_bias
        self.head = keras.layers.Dense(
            classes, use_bias=has_bias, dtype=self.dtype_policy, name="head"
        )
        self.head.build((None, channels))
        if self._classifiers is not None:
            (classifier,) = self.classifiers()
            weights = [classifier.kernel, classifier.bias] if has_bias else [classifier.kernel]
            self.head.set_weights([ops.convert_to_numpy(weight) for weight in weights])

    def _unit(
        self, filters: Any, kernel_size: Any, name: str | None, strides: Any = (1, 1)
    ) -> _Unit:
        return _Unit(filters, kernel_size, strides, dtype=self.dtype_policy, name=name)

    def _checked(self, student_shape: Any, teacher_shape: Any) -> Any:
        shapes = teacher_shape if isinstance(teacher_shape, list) else [teacher_shape]
        features = shapes[:-1]
        fits = len(student_shape) == len(shapes[-1]) == 2 and student_shape[-1] == shapes[-1][-1]
        if len(features) > 1:
            fits = fits and all(len(shape) == 4 for shape in features)
        if not (fits and features):
            raise ValueError(
                "ShadowHead needs the student's logits, and a list of the teacher's feature (or "
                "of several maps) and at its end its logits, of as many classes: student='logits', "
                "teacher=['embedding', 'logits']. Received: student of shape "
                f"{tuple(student_shape)} and teacher of shapes {[tuple(s) for s in shapes]}"
            )
        return shapes

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        *features, logits = keras.tree.map_structure(ops.stop_gradient, list(teacher))
        if self.head is not None:
            shadow = self.head(mean_over_places(features[0]))
        else:
            maps, *rest = features
            for (down, side), smaller in zip(self.units, rest, strict=True):
                maps = down(maps, training=training) + side(smaller, training=training)
            (classifier,) = self.classifiers()
            pooled = mean_over_places(self.last(maps, training=training))
            shadow = frozen_logits(classifier, pooled)
        return [student, shadow], logits


def _strides(larger: Any, smaller: Any) -> tuple[int, int]:
    """Returns the strides that bring one map to the size of the next, or says that none do."""
    sizes = [(a, b) for a, b in zip(larger[1:3], smaller[1:3], strict=True)]
    strides: Any = tuple(-(-a // b) if a and b else 0 for a, b in sizes)
    if not all(s and -(-a // s) == b for s, (a, b) in zip(strides, sizes, strict=True)):
        raise ValueError(
            "ShadowHead fuses maps from the larger to the smaller, each a whole number of times "
            f"smaller, of known size. Received: maps of shapes {tuple(larger)} and {tuple(smaller)}"
        )
    return strides
