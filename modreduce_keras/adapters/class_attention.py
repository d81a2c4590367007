"""Class attention: CAT-KD's class activation maps."""

from typing import Any

from keras import ops

from modreduce_keras.adapters.classifier_base import ClassifierAdapter, classifier_of
from modreduce_keras.adapters.map_base import are_several
from modreduce_keras.ops import float32
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor


@register("adapter", "class_attention")
class ClassAttention(ClassifierAdapter):
    """CAT-KD's class activation maps: each position's evidence for each class.

    a[h, w, c] = Σ_d f[h, w, d] W[d, c], with the kernel W of the model's own classifier

    The adapter has no weights. Its loss trains the student's classifier along with the student;
    the teacher's stays as it is.

    Args:
        name: Name of the layer. Defaults to `"class_attention"`.
        dtype: See `Adapter`.
        trainable: See `Adapter`.

    Call arguments:
        student: The student's last maps, (batch, height, width, channels), or of another rank.
        teacher: The teacher's last maps, of the same rank.

    Returns:
        Two maps (batch, height, width, classes), the student's and the teacher's, of their sizes.

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

    one_feature = True

    def __init__(
        self, *, name: str | None = None, dtype: Any = None, trainable: bool = True
    ) -> None:
        super().__init__(name=name or self.identifier, dtype=dtype, trainable=trainable)

    def _taken_from(self, student: Tensor, teacher: Tensor) -> tuple[Any, Any]:
        return classifier_of(student), classifier_of(teacher)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        shapes = {"student": student_shape, "teacher": teacher_shape}
        for role, shape in shapes.items():
            if not are_several([shape]):
                raise ValueError(
                    "ClassAttention needs maps (batch, height, width, channels), or sequences "
                    "(batch, length, channels), of known size: the tap before the pooling, such as "
                    f"'stage3'. Received: {role} of shape {tuple(shape)}"
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

    def call(self, student: Tensor, teacher: Tensor, training: bool | None = None) -> Any:
        students, teachers = (float32(classifier.kernel) for classifier in self.classifiers())
        return (
            ops.matmul(float32(student), students),
            ops.matmul(float32(teacher), ops.stop_gradient(teachers)),
        )
