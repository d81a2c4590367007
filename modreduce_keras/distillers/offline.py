"""Offline distillation: one student learns from one or several frozen teachers."""

from typing import Any

import keras

from modreduce_keras.calls import by_name
from modreduce_keras.data import TeacherCache, TeacherOutputs
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.checks.foreign import former_constructor, meant_by_constructor
from modreduce_keras.knowledge.shorthand import default_knowledge, resolved
from modreduce_keras.registry import register


@register("distiller", "distiller")
class Distiller(BaseDistiller):
    """Trains one student on labels and on the knowledge of one or several frozen teachers.

    The loss is `supervised_weight` times the compiled loss on the labels (`ce` in the logs), plus
    each knowledge times its weight.

    Args:
        student: The model to train. Use it after `fit` as `distiller.student`.
        teacher: The trained model to learn from, which is never changed; a list of several models
            with different names (responses use their average, and features of one of them are
            tapped by `"name/tap"`); a `mr.data.TeacherCache`; or a `mr.data.TeacherOutputs` if you
            have only predictions. `None` only if no knowledge needs a teacher
            (`"confidence_penalty"`).
        knowledge: What the student learns from the teacher: `mr.Response`, `mr.Feature` or
            `mr.Relation`; a loss or its name (`"kd"`); a list of these; or a dict from the name of
            a loss to its weight (`{"kd": 0.9, "hint": "balanced"}`). Without layers, a loss on
            features compares the last feature maps (`"hint"`: those of the middle stage), and a
            loss on relations the inputs of the last Dense layers. Defaults to `None`: `"dist"` for
            three classes or more, `"kd"` (at temperature 4) for two classes, tokens and pixels, and
            `"binary_kd"` for one logit. Regressions and several independent labels raise an error
            with the default: they need `"logit_mse"` and `"binary_kd"`. Knowledge that is already
            part of another distiller is copied, with new adapters; `distiller.knowledge` has the
            copy.
        teacher_input: How to get the teacher's input, if it differs from the student's. A function
            or Keras layer that is called with the student's input, such as
            `keras.layers.Resizing(299, 299)`. Or, if `x` is a dict, the key of the teacher's entry:
            the student gets the other entries; see `BaseDistiller`. Defaults to `None`: the same
            input.
        supervised_weight: Weight of the compiled loss on the labels: a number that is not
            negative, or a schedule. Defaults to 1.
        teacher_dtype: Precision of the teacher: `None` (the default, its own precision), `"auto"`,
            `"float32"`, `"bfloat16"`, `"float16"`, or `"as_given"` for the unchanged model, without
            folded batch normalizations; see `BaseDistiller`.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: If there is no knowledge, a teacher is given without knowledge that needs one
            (or the reverse), a tap is unknown, or shapes of teacher and student do not match.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> distiller = mr.Distiller(
        ...     student=mr.models.get("convnet", num_classes=3, widths=(4, 8)),
        ...     teacher=mr.models.get("convnet", num_classes=3, widths=(8, 16)),
        ...     knowledge=[mr.Response("kd", weight=0.9), mr.Feature("hint", at="stage2")],
        ... )
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> history = distiller.fit(images, labels, verbose=0)
        >>> sorted(history.history)
        ['ce', 'hint', 'kd', 'loss']

    Reference:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """

    @by_name(
        "mr.Distiller(student=..., teacher=..., knowledge=...)",
        why="so that student and teacher are not swapped",
        meant=meant_by_constructor,
        former=former_constructor,
    )
    def __init__(
        self,
        *,
        student: keras.Model,
        teacher: keras.Model | list[keras.Model] | TeacherCache | TeacherOutputs | None,
        knowledge: Any = None,
        teacher_input: Any = None,
        supervised_weight: Any = 1.0,
        teacher_dtype: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        checks.require_model(student, "student")
        checks.require_teacher(teacher)
        if knowledge is None and teacher is not None:
            knowledge = default_knowledge(student)
        taught = resolved(knowledge, student, teacher)
        if not taught:
            raise ValueError(
                "A Distiller needs at least one knowledge, such as mr.Response('kd'). "
                f"Received: knowledge={knowledge!r}"
            )
        checks.require_knowledge_and_teacher(teacher, taught)
        super().__init__(
            {"student": student},
            teacher=teacher,
            knowledge={"student": taught},
            teacher_input=teacher_input,
            supervised_weight=supervised_weight,
            teacher_dtype=teacher_dtype,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )

    @property
    def student(self) -> keras.Model:
        """The student: plain Keras, to be saved and deployed without this library."""
        return self.students["student"]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "student": serialize(self.student),
            "knowledge": [serialize(knowledge) for knowledge in self.knowledge["student"]],
        }
