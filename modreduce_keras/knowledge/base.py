"""Knowledge: a loss with the taps it reads, the adapter between them, and its weight."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras import knobs, registry
from modreduce_keras.adapters.base import Adapter
from modreduce_keras.arguments import require_bool
from modreduce_keras.knowledge import label_choice, masks, refusals
from modreduce_keras.knowledge.compared import compared
from modreduce_keras.knowledge.weight import Weight
from modreduce_keras.losses.base import require_one_feature
from modreduce_keras.losses.keras_loss import loss_from
from modreduce_keras.taps import LOGITS, ModelOutput
from modreduce_keras.typing import Tensor

Taps = str | list[str] | None
AUTO = "auto"
"""What is given for taps that the distiller is to find."""


class Knowledge(keras.layers.Layer):
    """Base class of all knowledge: a loss with its taps, its adapter and its weight.

    Args:
        loss: A `Loss`, its config or its identifier.
        at: Tap of both models: the name of a layer, or a list of names if the loss compares several
            layers. `"embedding"`, `"stage1"`, ... work in any model, unless a layer has that name;
            see `mr.models.taps`. `"auto"`: the layers that `mr.models.pair` proposes for this kind
            of loss.
        student: Tap of the student, instead of `at`.
        teacher: Tap of the teacher, instead of `at`.
        adapter: Layer that makes both comparable: an `Adapter`, its config, its identifier or
            `None`. Defaults to the default adapter of the loss.
        mask: Which positions (tokens, pixels) count. `None`, the default, uses the Keras masks of
            the tapped tensors of student and teacher; a mask on one side applies to both. For
            models without Keras masks (as in keras-hub), pass a key of the inputs, such as
            `"padding_mask"`, or a function of the inputs, registered with Keras so that it can be
            saved. The mask is 0 or `False` at positions to leave out; its shape (batch, ...) covers
            all or the leading position axes of the features. It replaces the Keras masks. If the
            features differ in size, the mask has the size of one side; a position of the other side
            counts if the mask keeps all of it. Masked positions affect neither the value nor the
            gradient. `False` uses no mask. An error is raised if a loss or adapter cannot leave
            positions out, or if the model has a Keras mask that the tapped layer has lost; pass
            `mask=` or `mask=False` then. `"fgd"` reads the mask as the foreground and leaves
            nothing out; `False` then means foreground everywhere.
        ignore_class: Label of positions to leave out, such as 255, as in Keras' cross-entropies. If
            the features are smaller than the label maps, a position counts if none of its labels is
            ignored. Defaults to `None`: all positions count, except masked ones.
        labels: Name of the student's output whose labels the loss uses, if it needs labels and
            there are several outputs. Defaults to the output that is compared.
        weight: Weight of the term: a number that is not negative, a schedule, or `"balanced"`.
            Defaults to the loss's own default weight. Can be changed between epochs:
            `knowledge.weight = 0.5`.

            `"balanced"`: the first training step sets the weight, so that the weighted term is as
            large as the loss on the labels (without a compiled loss: as the student's other
            knowledge with given weights). The weight then stays fixed, also after another
            `compile`, and is saved; a copy from the config starts without one. If the term is 0 or
            not finite in the first batch, or the weight would be above 1,000,000, a later batch
            sets it; until then it is 0. If it is never set, `fit` warns. Before it is set, reading
            `knowledge.weight` raises a `ValueError`. `knowledge.weight = "balanced"` makes the next
            step set it again.
        staged: Whether the term is trained in a separate stage (`distiller.pretrain`) instead of
            `fit`. Defaults to what the method needs.
        name: Name of the term in the logs. Defaults to the name of the loss.
    """

    weight = Weight()

    by_default = False
    """Whether a distiller has chosen it, because none was given."""

    def __init__(
        self,
        loss: Any,
        *,
        at: Taps = None,
        student: Taps = None,
        teacher: Taps = None,
        adapter: Any = "default",
        mask: Any = None,
        ignore_class: int | None = None,
        labels: str | None = None,
        weight: Any = None,
        staged: bool | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        loss = loss_from(loss)
        refusals.require_no_arguments_of(loss, kwargs, type(self).__name__)
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name or loss.name, **kwargs)
        self.loss = loss
        self.weight = loss.default_weight if weight is None else weight
        self.staged = loss.staged if staged is None else require_bool("staged", staged)
        # A Keras layer saves the variables it holds, and a loss is not a layer.
        self._loss_variables = knobs.variables(loss)
        self._check_taps(at, student, teacher)
        self.student = at if student is None else student
        self.teacher = at if teacher is None else teacher
        self.auto_taps = [role for role in ("student", "teacher") if getattr(self, role) == AUTO]
        if isinstance(adapter, str) and adapter == "default":
            adapter = loss.default_adapter
        self.adapter = adapter and registry.get("adapter", adapter, Adapter)
        taps = [tap for role in ("student", "teacher") for tap in self.taps(role)]
        refusals.require_attention(loss, self.adapter, taps)
        self.mask = masks.checked(mask)
        self.ignore_class = label_choice.checked_class(ignore_class, loss)
        self.labels = label_choice.checked_output(labels, loss, self.ignore_class)
        self.supports_masking = True  # by `kept`, not by Keras' propagation
        self.pretrained = None
        if self.staged:
            refusals.require_stage(self, weight, adapter_pretrains=self._adapter_pretrains())
        if self.pretrains:
            self.pretrained = keras.Variable(0.0, trainable=False, name="pretrained")

    def _check_taps(self, at: Taps, student: Taps, teacher: Taps) -> None:
        refusals.require_taps(type(self).__name__, at, student, teacher)

    @property
    def is_balanced(self) -> bool:
        """Whether the weight was given as `"balanced"`."""
        return Knowledge.weight.is_balanced(self)

    @property
    def has_no_weight(self) -> bool:
        """Whether a balanced weight is still to be set."""
        return Knowledge.weight.is_unset(self)

    def weight_in_loss(self) -> Any:
        """Returns the weight, a scalar in the graph; 0 while a balanced one is still to be set."""
        return Knowledge.weight.in_loss(self)

    def settle_weight(self, value: Any) -> None:
        """Sets a balanced weight to a scalar in the graph, if it has no value yet."""
        Knowledge.weight.settle(self, value)

    @property
    def output_kinds(self) -> tuple[str, ...] | None:
        """Kinds of outputs that the loss can compare; `None`: any."""
        return self.loss.output_kinds

    def taps(self, role: str) -> list[str]:
        """Returns the taps read from the `"student"` or from the `"teacher"`."""
        taps = getattr(self, role)
        return [] if taps is None else keras.tree.flatten(taps)

    def set_auto_taps(self, taps: Mapping[str, str]) -> None:
        """Sets the taps that were given as `"auto"`, by `"student"` and `"teacher"`."""
        for role, tap in taps.items():
            setattr(self, role, tap)

    def read(self, role: str, output: ModelOutput | None) -> Any:
        """Returns what the loss compares of one model's output: a tensor or a list of tensors."""
        taps = getattr(self, role)
        if output is None:
            return None
        if taps is None:
            return output.logits
        return keras.tree.map_structure(output.features.__getitem__, taps)

    def reads_logits(self, role: str) -> bool:
        """Returns whether it reads a model's output itself, which must then be logits."""
        return getattr(self, role) is None

    def compute_mask(self, *args: Any, **kwargs: Any) -> None:
        """Returns `None`: values per sample have no positions."""

    def kept(
        self, outputs: tuple[ModelOutput, ModelOutput | None], own: Any = None, labels: Any = None
    ) -> masks.Kept:
        """Returns which positions count: masks (batch, ...) by side, or `None` for all.

        Args:
            outputs: The student's and the teacher's output.
            own: The result of `given_mask`.
            labels: The labels of the output that is read, or `None`.
        """
        roles = ("student", "teacher")
        pair = tuple(self.read(*side) for side in zip(roles, outputs, strict=True))
        found = None
        if self.mask is not False:
            attached = tuple(self._attached(*side) for side in zip(roles, outputs, strict=True))
            if own is not None:
                own = self.loss.given_with_own(own, attached, pair[0])
            found = masks.kept(self.name, pair, attached, own, self.loss.positions)
        if self.ignore_class is None:
            return found
        if labels is None:
            raise ValueError(
                f"Knowledge {self.name!r} has ignore_class={self.ignore_class}, and the data have "
                "no labels y for what it reads (of several outputs, name one: labels='NAME')."
            )
        return self.kept_by_labels(found, pair, labels)

    def kept_by_labels(self, kept: masks.Kept, pair: tuple[Any, Any], labels: Any) -> masks.Kept:
        """Returns masks by side without the positions whose label is `ignore_class`."""
        return masks.without_class(
            self.name, kept, pair, labels, self.ignore_class, self.loss.positions
        )

    def symbolic_labels(self, feature: Any) -> keras.KerasTensor:
        """Returns symbolic labels as they fit the student's feature that it reads."""
        by_position = self.loss.label_maps or self.ignore_class is not None
        return label_choice.symbolic(self.loss, feature.shape, by_position)

    def labels_of(self, labels: Any) -> Any:
        """Returns the labels that it takes, of those of a batch, or `None`."""
        return label_choice.of_output(self.name, self.labels, self.student, labels)

    def given_mask(self, inputs: Any) -> Any:
        """Returns the mask from `mask=` for the inputs of a batch, or `None`."""
        return masks.given(self.mask, inputs, self.name)

    def needed_inputs(self, inputs: Any) -> dict[str, Any] | None:
        """Returns what the loss looks at among the inputs of a batch, by key, or `None`.

        Raises:
            ValueError: If the inputs do not have it.
        """
        keys = list(self.loss.needed_inputs())
        if not keys:
            return None
        missing = [key for key in keys if not (isinstance(inputs, Mapping) and key in inputs)]
        if missing:
            has = list(inputs) if isinstance(inputs, Mapping) else "no names"
            raise ValueError(
                f"Knowledge {self.name!r} reads {keys} of the inputs, so x must be a dict that has "
                f"it. Received: x with {has}"
            )
        return {key: inputs[key] for key in keys}

    def symbolic_mask(self, pair: tuple[Any, Any], inputs: Any) -> Any:
        """Returns that mask symbolically, for the student's and the teacher's feature."""
        return masks.symbolic(self.mask, inputs, pair, self.loss.positions)

    def require_no_mask_dropped(self, pair: tuple[Any, Any], models: Mapping[str, Any]) -> None:
        """Raises if the features that are read have lost a mask that their model makes.

        Args:
            pair: The student's and the teacher's feature.
            models: The student and the teachers, by their names in messages.
        """
        if self.mask is None:
            masks.require_not_dropped(self.name, pair, models)

    def _attached(self, role: str, output: ModelOutput | None) -> Any:
        """Returns the combined Keras mask of all tensors that are read from a model."""
        taps = self.taps(role) or [LOGITS]
        return masks.together([] if output is None else [output.masks.get(tap) for tap in taps])

    def require_masks(self) -> None:
        """Raises if the adapter or the loss cannot leave out masked positions."""
        if self.loss.takes_foreground and self.mask is not None:
            return
        if self.adapter is not None and not self.adapter.takes_mask:
            known = [name for name, cls in registry.components("adapter").items() if cls.takes_mask]
            raise ValueError(
                f"Knowledge {self.name!r} has a mask, and the adapter {self.adapter.identifier!r} "
                f"would mix padding into what is kept. These adapters take masks: {known} "
                "('conv_regressor' between features of equal size); adapter=None does without, "
                "and mask=False counts all positions."
            )
        if self.adapter is None or self.adapter.keeps_positions:
            self.loss.require_masks()

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        """Builds the adapter, if there is one, from the shapes of both features."""
        if self.adapter is None or self.adapter.built:
            return
        if self.adapter.one_feature:
            require_one_feature(type(self.adapter).__name__, student_shape, teacher_shape)
        self.adapter.build(student_shape, teacher_shape)

    def get_build_config(self) -> None:
        """Returns `None`: a knowledge is built by the distiller that uses it."""

    def call(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        kept: Tensor | None = None,
        by_position: bool = False,
        inputs: Mapping[str, Tensor] | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Returns the unweighted values per sample, (batch,), float32.

        Args:
            student: The result of `read` for the student.
            teacher: The result of `read` for the teacher.
            labels: (batch, ...), or `None` where the data have none.
            index: The indices of the samples in the training data, (batch,), or `None`.
            kept: The result of the method `kept`.
            by_position: Whether to return values per position, (batch, ...), where the loss has
                them: their mean over the positions is the value of the sample.
            inputs: The result of `needed_inputs`; `None` where the loss needs none.
            training: Whether this is a training step.
        """
        student, teacher = masks.without(student), masks.without(self.one_teacher(teacher))
        student, teacher, labels = self.outcomes(student, teacher, labels)
        foreground, kept = (kept, None) if self.loss.takes_foreground else (None, kept)
        if self.adapter is not None:
            context = {"index": index} if self.adapter.needs_index else {}
            if kept is not None:
                context["kept"] = kept
                student, teacher = masks.applied(kept, student, teacher)
            student, teacher = self.adapter(student, teacher, training=training, **context)
            kept = kept if self.adapter.keeps_positions else None
        if kept is not None and self.loss.matches_sizes:
            student, teacher, kept = masks.matched(kept, student, teacher)
        if kept is not None and self.loss.ignores_zeros:
            student, teacher = masks.applied(kept, student, teacher)
            kept = None
        mask = masks.common(self.name, kept)
        if self.loss.needs_labels and labels is None:
            raise ValueError(
                f"Knowledge {self.name!r} needs labels y (of several outputs, labels='NAME' names "
                "one), and the data have none for it."
            )
        foreground = masks.foreground(foreground, student, teacher)
        more = {"mask": mask, "foreground": foreground, "inputs": inputs}
        y_true = {name: given for name, given in more.items() if given is not None}
        y_true |= {"labels": labels} if self.loss.needs_labels else {}
        y_true |= {"teacher": teacher} if self.loss.needs_teacher else {}
        y_true = teacher if set(y_true) == {"teacher"} else y_true
        return self.compare(y_true, student, by_position)

    def one_teacher(self, teacher: Any) -> Any:
        """Returns the teacher's side of the comparison, from one teacher or several."""
        return teacher

    def outcomes(self, student: Any, teacher: Any, labels: Any) -> tuple[Any, Any, Any]:
        """Returns both sides and the labels, for the classes that the teacher's side has."""
        return student, teacher, labels

    def compare(self, y_true: Any, y_pred: Any, by_position: bool = False) -> Any:
        """Returns the values per sample, (batch,), or per position if the loss has them."""
        return compared(self.loss, y_true, y_pred, by_position)

    @property
    def pretrains(self) -> bool:
        """Whether `distiller.pretrain` has to run before `fit`."""
        return self.staged or self._adapter_pretrains()

    def _adapter_pretrains(self) -> bool:
        adapter = Adapter if self.adapter is None else type(self.adapter)
        return adapter.pretraining_loss is not Adapter.pretraining_loss

    def pretraining_call(self, student: Tensor, teacher: Tensor, **context: Any) -> Any:
        """Returns the unweighted values per sample, (batch,), of the pretraining stage."""
        if self.staged:
            return self.call(student, teacher, training=True, **context)
        return self.adapter.pretraining_loss(student, teacher)

    def has_pretrained(self) -> bool:
        """Returns whether the pretraining stage has been run, here or before the file was saved."""
        return self.pretrained is not None and bool(ops.convert_to_numpy(self.pretrained.value))

    def pretraining_variables(self, student: keras.Model) -> list[keras.Variable]:
        """Returns what the pretraining stage trains: the student, or a part of the adapter."""
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
            "mask": masks.serialized(self.mask),
            "ignore_class": self.ignore_class,
            "labels": self.labels,
            "staged": self.staged,
            **({"by_default": True} if self.by_default else {}),
            **knobs.config(self),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Knowledge":
        """Returns the knowledge that `get_config` describes."""
        arguments = dict(config)
        by_default = arguments.pop("by_default", False)
        made = super().from_config(arguments)
        made.by_default = by_default
        return made
