"""Adapters that look at features through a model's own classifier."""

from typing import ClassVar

import keras
from keras import ops

from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.normalization import normalization_layer
from modreduce_keras.held import Held
from modreduce_keras.ops import filled, float32, mean_over_places
from modreduce_keras.registry import register


def classifier_of(model: keras.Model) -> keras.layers.Dense:
    """Returns the Dense layer that ends a functional or Sequential model.

    Nested models are entered, and layers after it that change nothing (a linear activation that
    casts to float32) are passed over.

    Args:
        model: A functional or built Sequential model with one output.

    Returns:
        The layer itself, not a copy.

    Raises:
        ValueError: If the model is of another kind or ends in something else.

    Example:
        >>> import keras
        >>> inputs = keras.Input((4,))
        >>> model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(inputs))
        >>> classifier_of(model).name
        'logits'
    """
    outputs = getattr(model, "outputs", None) if isinstance(model, keras.Model) else None
    if not outputs:
        raise ValueError(
            "A classifier is taken from a functional or a built Sequential model. "
            f"Received: {model!r}"
        )
    layer = outputs[0]._keras_history.operation
    while _changes_nothing(layer):
        layer = layer.input._keras_history.operation
    if isinstance(layer, keras.Model):
        return classifier_of(layer)
    if isinstance(layer, keras.layers.Dense):
        return layer
    raise ValueError(
        f"A classifier is taken from a model that ends in a Dense layer. Received: {model.name!r}, "
        f"which ends in {type(layer).__name__} {layer.name!r}"
    )


def _changes_nothing(layer) -> bool:
    is_linear = getattr(layer, "activation", None) is keras.activations.linear
    is_activation = isinstance(layer, keras.layers.Activation)
    return isinstance(layer, keras.layers.Identity) or (is_activation and is_linear)


class _ClassifierAdapter(Adapter):
    """Base class of adapters that reuse the models' classifiers, which they do not own."""

    _classifiers: Held | None = None
    """`None` too while a saved adapter is built again, before its distiller has the models."""

    def adopt(self, student, teacher):
        self._classifiers = Held(self._taken_from(student, teacher))

    def _taken_from(self, student, teacher) -> tuple[keras.layers.Dense, ...]:
        """Returns the classifiers that the adapter reuses."""
        raise NotImplementedError

    def classifiers(self) -> tuple[keras.layers.Dense, ...]:
        """Returns what `adopt` took, or says that it was not called."""
        if self._classifiers is None:
            raise ValueError(
                f"{type(self).__name__} reuses a model's classifier: call adopt(student, teacher) "
                "with both models first, as a distiller does. Received: no models"
            )
        return self._classifiers()

    def require_width(self, role: str, shape, classifier) -> None:
        """Raises unless a classifier takes a feature's channels."""
        width = classifier.kernel.shape[0]
        if shape[-1] != width:
            raise ValueError(
                f"{type(self).__name__} needs what the {role}'s classifier {classifier.name!r} "
                f"sees, of {width} channels: the tap before it. Received: {role} of shape "
                f"{tuple(shape)}"
            )


@register("adapter", "softmax_regressor")
class SoftmaxRegressor(_ClassifierAdapter):
    """SRRL's connector and the teacher's classifier, which judges the student's feature too.

    f = mean over the places of ReLU(BN(W f_s)), W to the teacher's width; its logits W_t f + b_t

    The teacher's classifier stays as it is: gradients pass through it and not into it.

    Args:
        use_relu: Whether a ReLU ends the connector. Defaults to `True`, which fits teachers'
            features after an activation; set it to `False` for features that can be negative.

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

    example_shapes: ClassVar = [((4, 4, 3), (2, 2, 8)), ((6,), (8,))]

    one_feature = True
    takes_mask = True
    keeps_positions = False

    def __init__(self, *, use_relu: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.use_relu = use_relu

    def _taken_from(self, student, teacher):
        return (classifier_of(teacher),)

    def build(self, student_shape, teacher_shape):
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

    def call(self, student, teacher, training=None, kept=None):
        of_student, of_teacher = map((kept or {}).get, ("student", "teacher"))
        student = self.connector(student)
        mask = filled(of_student, student[..., 0])
        student = self.normalization(student, training=training, mask=mask)
        student = ops.relu(student) if self.use_relu else student
        return self._with_logits(student, of_student), self._with_logits(teacher, of_teacher)

    def _with_logits(self, feature, kept):
        feature = mean_over_places(feature, kept)
        (classifier,) = self.classifiers()
        logits = ops.matmul(feature, ops.stop_gradient(float32(classifier.kernel)))
        if classifier.use_bias:
            logits = logits + ops.stop_gradient(float32(classifier.bias))
        return [feature, logits]

    def get_config(self):
        """Returns the constructor arguments."""
        return {**super().get_config(), "use_relu": self.use_relu}


@register("adapter", "class_attention")
class ClassAttention(_ClassifierAdapter):
    """CAT-KD's class activation maps: each place's evidence for each class.

    a[h, w, c] = Σ_d f[h, w, d] W[d, c], with the kernel W of the model's own classifier

    The adapter has no weights. Its loss trains the student's classifier along with the student;
    the teacher's stays as it is.

    Args:
        name: Name of the layer. Defaults to `"class_attention"`.

    Call arguments:
        student: The student's last maps, (batch, height, width, channels).
        teacher: The teacher's last maps.

    Returns:
        Two maps (batch, height, width, classes), the student's and the teacher's.

    Raises:
        ValueError: If no models were adopted, one does not end in a Dense layer that takes the
            maps' channels, the numbers of classes differ, or a feature is not a map.

    Example:
        >>> import numpy as np
        >>> import modreduce_keras as mr
        >>> adapter = ClassAttention()
        >>> adapter.adopt(*(mr.models.convnet(num_classes=5, widths=(w,)) for w in (4, 8)))
        >>> student, teacher = adapter(np.ones((2, 7, 7, 4)), np.ones((2, 3, 3, 8)))
        >>> tuple(student.shape), tuple(teacher.shape)
        ((2, 7, 7, 5), (2, 3, 3, 5))

    Reference:
        Guo et al., Class Attention Transfer Based Knowledge Distillation, 2023: without the
        classifier's bias.
    """

    example_shapes: ClassVar = [((4, 4, 6), (4, 4, 8)), ((5, 5, 6), (3, 3, 8))]

    one_feature = True

    def __init__(self, *, name: str | None = None, **kwargs):
        super().__init__(name=name or self.identifier, **kwargs)

    def _taken_from(self, student, teacher):
        return classifier_of(student), classifier_of(teacher)

    def build(self, student_shape, teacher_shape):
        shapes = {"student": student_shape, "teacher": teacher_shape}
        for role, shape in shapes.items():
            if len(shape) != 4:
                raise ValueError(
                    "ClassAttention needs maps (batch, height, width, channels): the tap before "
                    f"the pooling, such as 'stage3'. Received: {role} of shape {tuple(shape)}"
                )
        if self._classifiers is None:
            return
        classifiers = self.classifiers()
        for (role, shape), classifier in zip(shapes.items(), classifiers, strict=True):
            self.require_width(role, shape, classifier)
        classes = [classifier.kernel.shape[1] for classifier in classifiers]
        if classes[0] != classes[1]:
            raise ValueError(
                "ClassAttention compares the maps class by class, so both models need the same "
                f"number of classes. Received: a student with {classes[0]} and a teacher with "
                f"{classes[1]}"
            )

    def call(self, student, teacher, training=None):
        students, teachers = (float32(classifier.kernel) for classifier in self.classifiers())
        return (
            ops.matmul(float32(student), students),
            ops.matmul(float32(teacher), ops.stop_gradient(teachers)),
        )
