"""Knowledge: what one student is taught from one teacher.

A knowledge binds a loss to the taps it reads, the adapter between them and the weight of the
term. It comes in three kinds: `Response` (the outputs), `Feature` (representations inside) and
`Relation` (how samples lie to each other).
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras import knobs, registry
from modreduce_keras.adapters.base import Adapter
from modreduce_keras.arguments import is_number, require_bool
from modreduce_keras.distribute import (
    gather_over_replicas,
    gather_with_gradient,
    num_replicas,
    place_in_global_batch,
)
from modreduce_keras.knobs import Knob
from modreduce_keras.losses.base import Loss
from modreduce_keras.ops import float32, tempered_log_softmax
from modreduce_keras.registry import register
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


@register("knowledge", "response")
class Response(Knowledge):
    """Response knowledge: the student's logits against the teacher's.

    Of several teachers, the average teaches: of their probabilities at the loss's temperature (1
    where it has none, or several), log Σ_i w_i softmax(z_i / T) · T as logits, or of their logits,
    Σ_i w_i z_i.

    Args:
        loss: A loss on logits, its config or its identifier. Defaults to `"kd"`.
        at: Name of an output, or any tap, to read in both models instead of their only output.
        student: The same for the student alone.
        teacher: The same for the teacher alone. With several teachers: the name of one, or a list
            of names. Defaults to all.
        adapter: See `Knowledge`.
        average: What is averaged over several teachers: `"probabilities"` or `"logits"`. Defaults
            to probabilities, and to logits where the loss compares plain numbers.
        teacher_weights: Weights of several teachers, positive, which are scaled to sum one.
            Defaults to equal weights.
        ignore_class: Label of positions that do not count, as in Keras' cross-entropies. Defaults
            to `None`: all count but those that a Keras mask of the student's logits leaves out.
        weight: See `Knowledge`.
        staged: See `Knowledge`.
        name: See `Knowledge`.

    Raises:
        ValueError: If an argument is not one of those above; when the distiller is built, if the
            numbers of classes differ or an output has to be named.

    Example:
        >>> import modreduce_keras as mr
        >>> float(mr.Response(mr.losses.KD(temperature=2.0), weight=0.9).loss.temperature)
        2.0

    Reference:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """

    def __init__(
        self,
        loss: Any = "kd",
        *,
        average: str | None = None,
        teacher_weights: Sequence[float] | None = None,
        ignore_class: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(loss, **kwargs)
        if average not in (None, "probabilities", "logits"):
            raise ValueError(
                f"average must be 'probabilities', 'logits' or None. Received: {average=}"
            )
        if teacher_weights is not None:
            several = isinstance(teacher_weights, (Sequence, np.ndarray))
            if not several or not all(is_number(w) and w > 0 for w in teacher_weights):
                raise ValueError(
                    "teacher_weights must be a list of positive numbers, one for each teacher, or "
                    f"None. Received: {teacher_weights=}"
                )
            teacher_weights = list(map(float, teacher_weights))
        if ignore_class is not None:
            whole = is_number(ignore_class) and ignore_class == int(ignore_class)
            if not whole:
                raise ValueError(
                    f"ignore_class must be an integer label or None. Received: {ignore_class=}"
                )
            ignore_class = int(ignore_class)
        self.average, self.ignore_class = average, ignore_class
        self.supports_masking = True
        self.teacher_weights = teacher_weights

    def _check_taps(self, at: Taps, student: Taps, teacher: Taps) -> None:
        if at is not None and (student is not None or teacher is not None):
            super()._check_taps(at, student, teacher)

    def build(self, student_shape, teacher_shape):
        if self.loss.needs_teacher:
            self._check_classes(student_shape, teacher_shape)
        super().build(student_shape, teacher_shape)

    def _check_classes(self, student_shape, teacher_shape):
        several = isinstance(teacher_shape, list)
        if self.teacher_weights is not None:
            number = len(teacher_shape) if several else 1
            if len(self.teacher_weights) != number:
                raise ValueError(
                    f"Knowledge {self.name!r} needs one of teacher_weights for each of {number} "
                    f"teachers. Received: {self.teacher_weights}"
                )
        for shape in teacher_shape if several else [teacher_shape]:
            if student_shape[-1] != shape[-1]:
                raise ValueError(
                    f"Knowledge {self.name!r} compares logits, so student and teacher need the "
                    f"same number of classes. Received: a student with {student_shape[-1]} and a "
                    f"teacher with {shape[-1]}"
                )

    def compute_mask(self, *args, **kwargs):
        """Returns `None`: the values per sample have no positions any more."""

    def kept(self, student, labels):
        mask = getattr(student, "_keras_mask", None)
        if self.ignore_class is None:
            return mask
        if labels is None:
            raise ValueError(
                f"Knowledge {self.name!r} has ignore_class={self.ignore_class}, and the data have "
                "no labels y for what it reads (of several outputs, name the output: at='NAME')."
            )
        if len(labels.shape) == len(student.shape) and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, axis=-1)
        counted = ops.not_equal(labels, self.ignore_class)
        return counted if mask is None else ops.logical_and(mask, counted)

    def call(self, student, teacher, **context):
        if isinstance(teacher, (list, tuple)):
            teacher = self._averaged(float32(teacher))
        return super().call(student, teacher, **context)

    def _averaged(self, teachers):
        weights = self.teacher_weights or [1.0] * len(teachers)
        shares = [weight / sum(weights) for weight in weights]
        average = self.average
        if average is None:
            average = "logits" if getattr(self.loss, "least_classes", 2) == 1 else "probabilities"
        if average == "logits":
            return sum(share * logits for share, logits in zip(shares, teachers, strict=True))
        temperature = getattr(self.loss, "temperature", 1.0)
        log_shares = [
            math.log(share) + tempered_log_softmax(logits, temperature)
            for share, logits in zip(shares, teachers, strict=True)
        ]
        return temperature * ops.logsumexp(ops.stack(log_shares), axis=0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "average": self.average,
            "teacher_weights": self.teacher_weights,
            "ignore_class": self.ignore_class,
        }


@register("knowledge", "feature")
class Feature(Knowledge):
    """Feature knowledge: what layers inside the student represent against the teacher's.

    Args:
        loss: A loss on features, its config or its identifier.
        at: Tap of both models: a layer's name, or a list of them where the loss compares several.
        student: Tap of the student, together with `teacher` and instead of `at`.
        teacher: Tap of the teacher. With several teachers: `"name/tap"`.
        adapter: See `Knowledge`.
        weight: See `Knowledge`.
        staged: See `Knowledge`.
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
class Relation(Knowledge):
    """Relation knowledge: how the samples of a batch lie to each other.

    Args:
        loss: A loss on relations, its config or its identifier.
        across_replicas: Whether the batch whose samples are related is that of all replicas and
            not of each its own. It makes the training that of one replica, and exchanges all
            compared features at each step. Several machines then need batches of one size
            (`drop_remainder=True`). Defaults to `False`.
        **kwargs: `at`, or `student` and `teacher`; `adapter`, `weight`, `staged`, `name`; see
            `Feature`.

    Raises:
        ValueError: See `Feature`; or if `across_replicas` is neither `True` nor `False`.

    Example:
        >>> import modreduce_keras as mr
        >>> mr.Relation("rkd_distance", at="embedding").name
        'rkd_distance'
    """

    def __init__(self, loss: Any, *, across_replicas: bool = False, **kwargs: Any):
        super().__init__(loss, **kwargs)
        self.across_replicas = require_bool("across_replicas", across_replicas)

    def compare(self, y_true, y_pred):
        """Returns the loss's values per sample, (batch,), of this replica's samples."""
        if not self.across_replicas or num_replicas() == 1:
            return super().compare(y_true, y_pred)
        rows = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        begin, _ = place_in_global_batch(rows)
        y_true = keras.tree.map_structure(gather_over_replicas, y_true)
        y_pred = keras.tree.map_structure(gather_with_gradient, y_pred)
        return super().compare(y_true, y_pred)[begin : begin + rows]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "across_replicas": self.across_replicas}


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
