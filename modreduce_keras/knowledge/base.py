"""Knowledge: a loss bound to the taps it reads, the adapter between them, and its weight."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras import knobs, registry
from modreduce_keras.adapters.base import Adapter
from modreduce_keras.arguments import require_bool
from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.taps import ModelOutput

Taps = str | list[str] | None


class Knowledge(keras.layers.Layer):
    """Base class: a loss, its taps, its adapter and its weight.

    Args:
        loss: A `Loss`, its config or its identifier.
        at: Tap of both models: a layer's name, or a list of them where the loss compares several.
        student: Tap of the student, instead of `at`.
        teacher: Tap of the teacher, instead of `at`.
        adapter: Layer that makes both comparable: an `Adapter`, its config, its identifier or
            `None`. Defaults to the one that goes with the loss.
        weight: Weight of the term: a number that is not negative, or a schedule. Defaults to the
            loss's own default weight. Can be changed between epochs: `knowledge.weight = 0.5`.
        staged: Whether the term is trained in a stage of its own (`distiller.pretrain`) and not
            in `fit`. Defaults to what the method does.
        name: Name of the term in the logs. Defaults to the name of the loss.
    """

    weight = Knob()

    def __init__(
        self,
        loss: Any,
        *,
        at: Taps = None,
        student: Taps = None,
        teacher: Taps = None,
        adapter: Any = "default",
        weight: Any = None,
        staged: bool | None = None,
        name: str | None = None,
        **kwargs: Any,
    ):
        loss = registry.get("loss", loss, Loss)
        self._refuse_arguments_of(loss, kwargs)
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name or loss.name, **kwargs)
        self.loss = loss
        self.weight = loss.default_weight if weight is None else weight
        self.staged = loss.staged if staged is None else require_bool("staged", staged)
        # A Keras layer saves the variables it holds, and a loss is no layer.
        self._loss_variables = knobs.variables(loss)
        self._check_taps(at, student, teacher)
        self.student = at if student is None else student
        self.teacher = at if teacher is None else teacher
        if isinstance(adapter, str) and adapter == "default":
            adapter = loss.default_adapter
        self.adapter = adapter and registry.get("adapter", adapter, Adapter)
        self.pretrained = None
        if self.staged and self._adapter_pretrains():
            raise ValueError(
                f"The adapter {self.adapter.identifier!r} has a stage of its own before training, "
                "so its loss cannot have one too. Received: staged=True"
            )
        if self.staged and not isinstance(weight, (int, float, type(None))):
            raise ValueError(
                "A stage of its own is trained with one weight, because schedules follow the steps "
                f"of fit. Received: weight={weight!r} of a staged knowledge"
            )
        if self.pretrains:
            self.pretrained = keras.Variable(0.0, trainable=False, name="pretrained")

    def _refuse_arguments_of(self, loss: Loss, given: Mapping[str, Any]) -> None:
        own = set(inspect.signature(type(loss)).parameters) - {"dtype", "kwargs"}
        meant = sorted(own & set(given))
        if meant:
            raise ValueError(
                f"{', '.join(meant)} must be given to the loss and not to {type(self).__name__}: "
                f"mr.{type(self).__name__}(mr.losses.{type(loss).__name__}({meant[0]}=...)). "
                f"Received: { {name: given[name] for name in meant} }"
            )

    def _check_taps(self, at: Taps, student: Taps, teacher: Taps) -> None:
        both, neither = student and teacher, student is None and teacher is None
        if not (both and at is None) and not (at and neither):
            raise ValueError(
                f"{type(self).__name__} needs the taps it reads: either at='stage2' for both "
                "models or student='stage2', teacher='stage3'. "
                f"Received: at={at!r}, student={student!r}, teacher={teacher!r}"
            )

    def taps(self, role: str) -> list[str]:
        """Returns the taps read from the `"student"` or from the `"teacher"`."""
        taps = getattr(self, role)
        return [] if taps is None else keras.tree.flatten(taps)

    def read(self, role: str, output: ModelOutput | None) -> Any:
        """Returns what the loss compares of one model's output: a tensor or a list of tensors."""
        taps = getattr(self, role)
        if output is None:
            return None
        if taps is None:
            return output.logits
        return keras.tree.map_structure(output.features.__getitem__, taps)

    def reads_logits(self, role: str) -> bool:
        """Returns whether it reads a model's output itself, which then has to be logits."""
        return getattr(self, role) is None

    def kept(self, student: Any, labels: Any) -> Any:
        """Returns the positions that count, (batch, ...), or `None` where all do."""
        return

    def build(self, student_shape, teacher_shape):
        """Builds the adapter, if there is one, from the shapes of what both taps read."""
        if self.adapter is not None and not self.adapter.built:
            self.adapter.build(student_shape, teacher_shape)

    def get_build_config(self):
        """Returns `None`: a knowledge is built by the distiller that uses it."""

    def call(self, student, teacher, labels=None, index=None, kept=None, training=None):
        """Returns the unweighted values per sample, (batch,), float32.

        Args:
            student: What `read` returned of the student.
            teacher: What `read` returned of the teacher.
            labels: (batch, ...), or `None` where the data have none.
            index: The samples' places in the training data, (batch,), or `None`.
            kept: What `kept` returned.
            training: Whether this is a training step.
        """
        if self.adapter is not None:
            index = {"index": index} if self.adapter.needs_index else {}
            student, teacher = self.adapter(student, teacher, training=training, **index)
        if self.loss.needs_labels and labels is None:
            raise ValueError(
                f"Knowledge {self.name!r} needs labels y (a dict by output, where the student has "
                "several), and the data have none for it."
            )
        given = {"teacher": teacher, "labels": labels, "mask": kept}
        needed = {
            "teacher": self.loss.needs_teacher,
            "labels": self.loss.needs_labels,
            "mask": kept is not None,
        }
        y_true = {key: value for key, value in given.items() if needed[key]}
        return self.compare(teacher if set(y_true) == {"teacher"} else y_true, student)

    def compare(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss's values per sample, (batch,)."""
        return self.loss.call(y_true, y_pred)

    @property
    def pretrains(self) -> bool:
        """Whether `distiller.pretrain` has to run before `fit`."""
        return self.staged or self._adapter_pretrains()

    def _adapter_pretrains(self) -> bool:
        adapter = Adapter if self.adapter is None else type(self.adapter)
        return adapter.pretraining_loss is not Adapter.pretraining_loss

    def pretraining_call(self, student, teacher, **context):
        """Returns the unweighted values per sample, (batch,), of the stage before training."""
        if self.staged:
            return self.call(student, teacher, training=True, **context)
        return self.adapter.pretraining_loss(student, teacher)

    def has_pretrained(self) -> bool:
        """Returns whether that stage has been run, here or before the file was saved."""
        return self.pretrained is not None and bool(ops.convert_to_numpy(self.pretrained.value))

    def pretraining_variables(self, student: keras.Model) -> list[keras.Variable]:
        """Returns what the stage before training trains: the student, or the adapter's own part."""
        if self.staged:
            return student.trainable_variables + self.trainable_variables
        return self.adapter.pretraining_variables()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "loss": keras.saving.serialize_keras_object(self.loss),
            "student": self.student,
            "teacher": self.teacher,
            "adapter": self.adapter and keras.saving.serialize_keras_object(self.adapter),
            "staged": self.staged,
            **knobs.config(self),
        }


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
