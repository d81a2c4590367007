"""Base of distillers whose model agrees with its own past: EMA weights, earlier predictions."""

from typing import Any

import keras
from keras import ops

from modreduce_keras import registry
from modreduce_keras.arguments import require_choice
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.checks import heads, kind_checks, said_kind
from modreduce_keras.distillers.checks.shares import Share
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import Outputs
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.knobs import Knob
from modreduce_keras.ops import float32
from modreduce_keras.output_kind import (
    CLASSES,
    EMBEDDING,
    LABELS,
    LOGIT,
    REGRESSION,
    UNKNOWN,
    output_kind,
)

STUDENT, _TERM = "student", "consistency"


class ConsistencyDistiller(BaseDistiller):
    """Base class of distillers whose targets are earlier predictions or EMA weights of the student.

    total = CE(z, y) + consistency_weight · mean_c (softmax(z)_c - target_c)²

    No gradient flows through the target. The compiled loss tells the kind of the outputs, or
    `kind` if the loss does not: for one logit or independent labels (a binary cross-entropy),
    softmax(z) is replaced by sigmoid(z), for a regression or an embedding by z. To add a method,
    write `past_target`.

    Args:
        model: The model to train, with logits (batch, classes) as its output.
        momentum: Decay of the average at each update, from 0 to 1, or a schedule.
        consistency_weight: Weight of the consistency term, a number that is not negative, or a
            schedule.
        kind: Kind of the outputs: `"classes"`, `"labels"` (independent labels, or one logit) or
            `"regression"`. `None`: that of the compiled loss.
        supervised_weight: Weight of the compiled loss on the labels. Defaults to 1.
        teacher_input: What the past of the model sees; see `BaseDistiller`. Defaults to `None`.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.
    """

    consistency_weight = Knob()
    momentum = Share()
    needs_index = False
    """Whether the target is found by each sample's index in the training data, so that there is
    none in evaluation."""

    def __init__(
        self,
        model: keras.Model,
        *,
        momentum: Any,
        consistency_weight: Any,
        kind: str | None = None,
        supervised_weight: Any = 1.0,
        teacher_input: Any = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(
            {STUDENT: model},
            teacher=None,
            knowledge={STUDENT: []},
            supervised_weight=supervised_weight,
            teacher_input=teacher_input,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        output = self.student_output()
        checks.require_single_output(output, model, "model")
        if len(output.shape) != 2:
            raise ValueError(
                "A model learns to agree with its past on logits (batch, classes). Received: "
                f"{model.name!r} with output of shape {tuple(output.shape)}"
            )
        heads.require_logits(model, "model")
        self.momentum, self.consistency_weight = momentum, consistency_weight
        self._distance = registry.get("loss", "logit_mse")
        if kind is not None:
            require_choice("kind", kind, tuple(said_kind.SAID))
        self.kind, self._kind, self._of_loss = kind, UNKNOWN, UNKNOWN

    @property
    def student(self) -> keras.Model:
        """The model that is trained: plain Keras."""
        return self.students[STUDENT]

    def past_target(self, outputs: Outputs, probabilities: Any) -> tuple[Any, Any]:
        """Returns the target of a step. To be written by each method.

        Args:
            outputs: The result of the forward pass.
            probabilities: The student's, (batch, classes), float32, constant.

        Returns:
            The target's probabilities, (batch, classes); and 1 or 0 for each sample: whether it
            has a past, (batch,).
        """
        raise NotImplementedError

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        """Runs the student once, and where its target is wanted compares it with that."""
        outputs = super().forward_pass(batch, training, with_teacher)
        if not training and (self.needs_index or not with_teacher):
            return outputs
        probabilities = self.probabilities(outputs.students[STUDENT].logits)
        target, known = self.past_target(outputs, ops.stop_gradient(probabilities))
        values = self._distance.call(target, probabilities) * known
        return outputs.replace(extra={_TERM: values})

    def probabilities(self, logits: Any) -> Any:
        """Returns what is compared with the target: probabilities, or plain outputs; float32."""
        logits = float32(logits)
        if self._kind in (LOGIT, LABELS):
            return ops.sigmoid(logits)
        return logits if self._kind in (REGRESSION, EMBEDDING) else ops.softmax(logits, axis=-1)

    def build_terms(self) -> list[Term]:
        """Returns the terms of the loss: on the labels, and the consistency term."""
        agreement = Term(
            _TERM,
            lambda outputs: outputs.extra[_TERM],
            lambda: self.consistency_weight,
            training_only=self.needs_index,
        )
        return [*self.offline_terms(), agreement]

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Configures training; see `BaseDistiller.compile`."""
        if loss is None:
            raise ValueError(
                "Agreeing with its past teaches a model nothing new: compile with a loss on the "
                "labels. Received: loss=None"
            )
        units = self.student_output().shape[-1]
        self._of_loss = output_kind(loss, self.student_output().shape)
        self._kind = said_kind.resolved(self.kind, self._of_loss)
        if units == 1 and self._kind in (UNKNOWN, CLASSES):
            raise ValueError(
                "The loss must say what one output is: keras.losses.BinaryCrossentropy("
                "from_logits=True) for a logit, keras.losses.MeanSquaredError() for a number; or "
                f"say it beside a loss of your own, mr.{type(self).__name__}(model, ..., "
                f"kind='regression'). Received: {loss=}"
            )
        super().compile(optimizer, loss, *args, **kwargs)
        owner = type(self).__name__
        more = said_kind.label_checks(owner, self.kind, self._of_loss, units)
        self.compilation.label_checks += more

    def parts_on_outputs(self) -> list[kind_checks.Part]:
        """Returns the parts that must suit the compiled loss."""
        return said_kind.parts(type(self).__name__, self.kind, self._of_loss)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        config = super().get_config()
        del config["teacher"], config["teacher_dtype"]
        model = keras.saving.serialize_keras_object(self.student)
        return {**config, "model": model, "kind": self.kind}
