"""Knowledge: what one student is taught from one teacher.

A knowledge binds a loss to the taps it reads, the adapter between them and the weight of the
term. It comes in three kinds: `Response` (the outputs), `Feature` (representations inside) and
`Relation` (how samples lie to each other).
"""

from typing import Any

import keras

from modreduce_keras import knobs, registry
from modreduce_keras.adapters.base import Adapter
from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.registry import register
from modreduce_keras.taps import ModelOutput

Taps = str | list[str] | None


class Knowledge(keras.layers.Layer):
    """Base class: a loss, its taps, its adapter and its weight.

    Args:
        loss: A `Loss`, its config or its identifier.
        weight: Weight of the term: a number that is not negative, or a schedule. Defaults to the
            loss's own default weight. Can be changed between epochs: `knowledge.weight = 0.5`.
        name: Name of the term in the logs. Defaults to the name of the loss.
    """

    weight = Knob()
    student: Taps = None
    teacher: Taps = None
    adapter: Adapter | None = None
    needs_logits = False

    def __init__(self, loss: Any, *, weight: Any = None, name: str | None = None, **kwargs):
        loss = registry.get("loss", loss, Loss)
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name or loss.name, **kwargs)
        self.loss = loss
        self.weight = loss.default_weight if weight is None else weight
        # A Keras layer saves the variables it holds, and a loss is no layer.
        self._loss_variables = knobs.variables(loss)

    def taps(self, role: str) -> list[str]:
        """Returns the taps read from the `"student"` or from the `"teacher"`."""
        taps = getattr(self, role)
        return [] if taps is None else keras.tree.flatten(taps)

    def read(self, role: str, output: ModelOutput) -> Any:
        """Returns what the loss compares of one model's output: a tensor or a list of tensors."""
        taps = getattr(self, role)
        if taps is None:
            return output.logits
        return keras.tree.map_structure(output.features.__getitem__, taps)

    def build(self, student_shape, teacher_shape):
        """Builds the adapter, if there is one, from the shapes of what both taps read."""
        if self.adapter is not None and not self.adapter.built:
            self.adapter.build(student_shape, teacher_shape)

    def get_build_config(self):
        """Returns `None`: a knowledge is built by the distiller that uses it."""

    def call(self, student, teacher, labels=None, training=None):
        """Returns the unweighted values per sample, (batch,), float32."""
        if self.adapter is not None:
            student, teacher = self.adapter(student, teacher, training=training)
        if self.loss.needs_labels:
            teacher = {"teacher": teacher, "labels": labels}
        return self.loss.call(teacher, student)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "loss": keras.saving.serialize_keras_object(self.loss),
            **knobs.config(self),
        }


@register("knowledge", "response")
class Response(Knowledge):
    """Response knowledge: the student's logits against the teacher's.

    Args:
        loss: A loss on logits, its config or its identifier. Defaults to `"kd"`.
        weight: See `Knowledge`.
        name: See `Knowledge`.

    Raises:
        ValueError: When the distiller is built, if the numbers of classes differ.

    Example:
        >>> import modreduce_keras as mr
        >>> float(mr.Response(mr.losses.KD(temperature=2.0), weight=0.9).loss.temperature)
        2.0
    """

    needs_logits = True

    def __init__(self, loss: Any = "kd", *, weight: Any = None, name: str | None = None, **kwargs):
        super().__init__(loss, weight=weight, name=name, **kwargs)

    def build(self, student_shape, teacher_shape):
        if student_shape[-1] != teacher_shape[-1]:
            raise ValueError(
                f"Knowledge {self.name!r} compares logits, so student and teacher need the same "
                f"number of classes. Received: a student with {student_shape[-1]} and a teacher "
                f"with {teacher_shape[-1]}"
            )
        super().build(student_shape, teacher_shape)


class _Tapped(Knowledge):
    """Knowledge read at taps inside the models."""

    def __init__(
        self,
        loss: Any,
        *,
        at: Taps = None,
        student: Taps = None,
        teacher: Taps = None,
        adapter: Any = "default",
        weight: Any = None,
        name: str | None = None,
        **kwargs,
    ):
        super().__init__(loss, weight=weight, name=name, **kwargs)
        self.student = at if student is None else student
        self.teacher = at if teacher is None else teacher
        both, neither = student and teacher, student is None and teacher is None
        if not (both and at is None) and not (at and neither):
            raise ValueError(
                f"{type(self).__name__} needs the taps it reads: either at='stage2' for both "
                "models or student='stage2', teacher='stage3'. "
                f"Received: at={at!r}, student={student!r}, teacher={teacher!r}"
            )
        if isinstance(adapter, str) and adapter == "default":
            adapter = self.loss.default_adapter
        if adapter is not None:
            self.adapter = registry.get("adapter", adapter, Adapter)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "student": self.student,
            "teacher": self.teacher,
            "adapter": self.adapter and keras.saving.serialize_keras_object(self.adapter),
        }


@register("knowledge", "feature")
class Feature(_Tapped):
    """Feature knowledge: what layers inside the student represent against the teacher's.

    Args:
        loss: A loss on features, its config or its identifier.
        at: Tap of both models: a layer's name, or a list of them where the loss compares several.
        student: Tap of the student, together with `teacher` and instead of `at`.
        teacher: Tap of the teacher.
        adapter: Layer that makes both comparable: an `Adapter`, its config, its identifier or
            `None`. Defaults to the one that goes with the loss.
        weight: See `Knowledge`.
        name: See `Knowledge`.

    Raises:
        ValueError: If the taps are not named; when the distiller is built, if a tap is unknown or
            the shapes do not fit.

    Example:
        >>> import modreduce_keras as mr
        >>> hint = mr.Feature("hint", student="stage2", teacher="stage3")
        >>> float(hint.weight), hint.adapter.identifier
        (100.0, 'conv_regressor')
    """


@register("knowledge", "relation")
class Relation(_Tapped):
    """Relation knowledge: how the samples of a batch lie to each other.

    Args:
        loss: A loss on relations, its config or its identifier.
        at: See `Feature`.
        student: See `Feature`.
        teacher: See `Feature`.
        adapter: See `Feature`.
        weight: See `Knowledge`.
        name: See `Knowledge`.

    Raises:
        ValueError: See `Feature`.

    Example:
        >>> import modreduce_keras as mr
        >>> mr.Relation("rkd_distance", at="embedding").name
        'rkd_distance'
    """


def as_list(knowledge: Any) -> list[Knowledge]:
    """Returns one knowledge, a sequence of them or `None` as a list.

    Raises:
        TypeError: If something else came.
    """
    if knowledge is None:
        return []
    several = list(knowledge) if isinstance(knowledge, (list, tuple)) else [knowledge]
    for one in several:
        if not isinstance(one, Knowledge):
            raise TypeError(
                "knowledge must be a list of mr.Response, mr.Feature and mr.Relation, such as "
                f"[mr.Response('kd')]. Received: {one!r}"
            )
    return several


__all__ = ["Feature", "Knowledge", "Relation", "Response"]
