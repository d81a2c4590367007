"""Consistency: a model learns from its EMA weights or its earlier predictions."""

from typing import Any

import keras
from keras import ops

from modreduce_keras import registry
from modreduce_keras.arguments import require_choice, require_integer
from modreduce_keras.calls import answering, of_model
from modreduce_keras.distillers import checks, fitting, heads, said_kind
from modreduce_keras.distillers.averages import EMAWeights
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.batch import Batch
from modreduce_keras.distillers.forward import Outputs
from modreduce_keras.distillers.shares import Share
from modreduce_keras.distillers.terms import Term
from modreduce_keras.distribute import (
    assign_rows,
    changed_by_rows,
    gather_over_replicas,
    require_sample_index,
    take_rows,
)
from modreduce_keras.knobs import Knob
from modreduce_keras.models.clones import copy_model
from modreduce_keras.ops import float32, safe_reciprocal
from modreduce_keras.output_kind import (
    CLASSES,
    EMBEDDING,
    LABELS,
    LOGIT,
    REGRESSION,
    UNKNOWN,
    output_kind,
)
from modreduce_keras.registry import register

_STUDENT, _TERM = "student", "consistency"


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
        name: Name of the model. Defaults to that of the class.
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
            {_STUDENT: model},
            teacher=None,
            knowledge={_STUDENT: []},
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
        return self.students[_STUDENT]

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
        probabilities = self.probabilities(outputs.students[_STUDENT].logits)
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
        self._label_checks += said_kind.label_checks(owner, self.kind, self._of_loss, units)

    def parts_on_outputs(self) -> list[fitting.Part]:
        """Returns the parts that must suit the compiled loss."""
        return said_kind.parts(type(self).__name__, self.kind, self._of_loss)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        config = super().get_config()
        del config["teacher"], config["teacher_dtype"]
        model = keras.saving.serialize_keras_object(self.student)
        return {**config, "model": model, "kind": self.kind}


@register("distiller", "mean_teacher")
class MeanTeacher(ConsistencyDistiller):
    """Trains a model to agree with the moving average of its own weights.

    total = CE(z, y) + consistency_weight · mean_c (softmax(z)_c - softmax(z')_c)²
    θ' = keep · θ' + (1 - keep) · θ after each step

    with the logits z of the model and z' of the mean teacher, the model with the EMA weights θ'.
    The mean teacher is usually better than the model; deploy it as `distiller.mean_teacher()`.

    To include unlabelled samples, give them the label -1 and compile with
    `SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)`.

    Logs: `ce`, `consistency` and the compiled metrics, all for the model and not for its mean
    teacher. With `compile(evaluate_knowledge=True)`, validation compares the two models as well, in
    inference and without the noise of `teacher_input`, and `val_loss` is the total above.

    Args:
        model: The model to train, with logits (batch, classes) as its output. It should contain
            noise, such as dropout and augmenting layers, by which it differs from the mean teacher.
        momentum: Decay of the EMA weights at each step, from 0 to 1, or a schedule. Defaults to
            0.999. (The paper uses 0.99 while the weight ramps up:
            `mr.schedules.CutOff(0.999, steps=..., before=0.99)`.)
        consistency_weight: Weight of the consistency term, a number that is not negative, or a
            schedule. Defaults to 1; the paper ramps up to 100 on CIFAR-10 and to 1 on SVHN, as in
            `mr.schedules.SigmoidRampUp(100.0, steps=...)`.
        variant: `"reference"`, the default: keep = min(1 - 1 / (t + 1), momentum) at step t from 1
            on, as in the authors' PyTorch code. This is first a plain mean, which soon forgets the
            initial weights. `"paper"`: keep = momentum.
        teacher_input: The input of the mean teacher, if it differs from the student's: a function
            of the inputs such as an augmenting layer, or a key of a dict `x` whose entry, another
            view of the same sample, is for the teacher only. Defaults to `None`.
        supervised_weight: Weight of the compiled loss on the labels. Defaults to 1.
        kind: What the outputs are: `"classes"`, `"labels"` (independent ones, or one logit) or
            `"regression"`. Defaults to `None`: what the compiled loss says; beside a loss of your
            own they are classes. Labels that show something else are refused: one-hot ones beside
            the loss of a regression, and several-hot ones beside a loss of your own.
        name: Name of the model. Defaults to that of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: If the model does not end in logits (batch, classes), or an argument is out of
            range.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> distiller = mr.MeanTeacher(model, consistency_weight=10.0)
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> sorted(distiller.fit(images, labels, verbose=0).history)
        ['ce', 'consistency', 'loss']
        >>> distiller.mean_teacher().predict(images, verbose=0).shape
        (8, 3)

    Reference:
        Tarvainen and Valpola, Mean Teachers are Better Role Models, 2017. There, the mean teacher
        has noise too; here it runs in inference mode, with noise only from `teacher_input`.
    """

    @answering(of_model("mr.MeanTeacher"))
    def __init__(
        self,
        model: keras.Model,
        *,
        momentum: Any = 0.999,
        consistency_weight: Any = 1.0,
        variant: str = "reference",
        teacher_input: Any = None,
        supervised_weight: Any = 1.0,
        kind: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(
            model,
            momentum=momentum,
            consistency_weight=consistency_weight,
            teacher_input=teacher_input,
            supervised_weight=supervised_weight,
            kind=kind,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.variant = require_choice("variant", variant, ("reference", "paper"))
        self.past = EMAWeights(self.students, self._decay)

    def _decay(self, updates: Any) -> Any:
        if self.variant == "paper":
            return ops.convert_to_tensor(self.momentum)
        return ops.minimum(1.0 - 1.0 / (ops.cast(updates, "float32") + 2.0), self.momentum)

    def past_target(self, outputs: Any, probabilities: Any) -> Any:
        """Returns the mean teacher's probabilities; every sample has them."""
        seen = self._forward.views.teacher(outputs.batch.x, outputs.training)
        logits = self.past(seen, model=_STUDENT)
        return self.probabilities(logits), 1.0

    def after_step(self) -> None:
        """Updates the mean teacher."""
        self.past.update()

    def mean_teacher(self, into: keras.Model | None = None) -> keras.Model:
        """Returns the mean teacher as it is now: plain Keras, to be evaluated and deployed.

        Args:
            into: Model of the same architecture that receives the weights, and what its layers
                were adapted to. Defaults to `None`: a new one by `mr.models.copy_model`.

        Raises:
            ValueError: If the architectures differ, or the model cannot be copied.
        """
        model = copy_model(self.student) if into is None else into
        self.past.assign_to(_STUDENT, model)
        return model

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        return {**super().get_config(), "variant": self.variant}


@register("distiller", "temporal_ensembling")
class TemporalEnsembling(ConsistencyDistiller):
    """Trains a model to agree with its own earlier predictions for each sample.

    total = CE(z, y) + consistency_weight · mean_c (p_c - target_c)² with p = softmax(z)
    target = Z / (1 - momentum^t), then Z = momentum · Z + (1 - momentum) · p

    with a Z for each training sample, initially zero, and t, how often the sample has been seen.
    When a sample is seen for the first time, it has no consistency term. Z is stored by the
    sample's index, so the data need it:
    `distiller.fit(mr.data.with_index(dataset).shuffle(...).batch(64))`. Z is a weight of the
    distiller, so checkpoints restore it.

    To include unlabelled samples, give them the label -1 and compile with
    `SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)`.

    Logs: `ce`, `consistency` and the compiled metrics. Validation has no earlier predictions, so
    `val_loss` is the loss on the labels, and `compile(evaluate_knowledge=True)` raises an error.

    Args:
        model: The model to train, with logits (batch, classes) as its output. It or the data should
            contain noise, such as dropout and augmentation.
        samples: Number of training samples; every index is smaller.
        momentum: Decay of Z whenever the sample is seen, from 0 to 1, or a schedule. Defaults to
            0.6.
        consistency_weight: Weight of the consistency term, a number that is not negative, or a
            schedule. Defaults to 1; the paper ramps up to 30 times the labelled share of the
            samples over 80 epochs, as in `mr.schedules.SigmoidRampUp(30.0, steps=...)`.
        supervised_weight: Weight of the compiled loss on the labels. Defaults to 1.
        kind: What the outputs are: `"classes"`, `"labels"` (independent ones, or one logit) or
            `"regression"`. Defaults to `None`: what the compiled loss says; beside a loss of your
            own they are classes. Labels that show something else are refused: one-hot ones beside
            the loss of a regression, and several-hot ones beside a loss of your own.
        name: Name of the model. Defaults to that of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: If the model does not end in logits (batch, classes), an argument is out of
            range, or the data have no index or one out of range.

    Example:
        >>> import keras, numpy as np, tensorflow as tf, modreduce_keras as mr
        >>> model = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        >>> distiller = mr.TemporalEnsembling(model, samples=8, consistency_weight=10.0)
        >>> distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> train = mr.data.with_index(tf.data.Dataset.from_tensor_slices((images, labels)))
        >>> history = distiller.fit(train.batch(4), shuffle=False, verbose=0).history
        >>> history["consistency"]
        [0.0]

    Reference:
        Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, 2017. There, all Z are
        updated at the end of an epoch. Here each Z is updated when its sample is seen, after the
        target has been read, which is the same if each epoch has each sample once.
    """

    needs_index = True

    @answering(of_model("mr.TemporalEnsembling"))
    def __init__(
        self,
        model: keras.Model,
        *,
        samples: int,
        momentum: Any = 0.6,
        consistency_weight: Any = 1.0,
        supervised_weight: Any = 1.0,
        kind: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        super().__init__(
            model,
            momentum=momentum,
            consistency_weight=consistency_weight,
            supervised_weight=supervised_weight,
            kind=kind,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.samples = require_integer("samples", samples)
        classes = self.student_output().shape[-1]
        self.predictions = changed_by_rows(_memory((self.samples, classes), "predictions"))
        # How much of Z is there: 1 - momentum^t, also where the momentum changes on the way.
        self.masses = changed_by_rows(_memory((self.samples,), "masses"))

    def past_target(self, outputs: Any, probabilities: Any) -> Any:
        """Returns the samples' mean predictions, and notes the present ones."""
        index = self._checked(outputs.batch.index)
        mass = take_rows(self.masses, index)
        target = take_rows(self.predictions, index) * safe_reciprocal(mass)[:, None]
        self._remember(gather_over_replicas(index), gather_over_replicas(probabilities))
        return target, ops.cast(mass > 0, "float32")

    def _checked(self, index: Any) -> Any:
        if index is None:
            raise ValueError(
                "TemporalEnsembling needs each sample's index in the training data: wrap the "
                "dataset, fit(mr.data.with_index(dataset).batch(...)). Received: x without index"
            )
        return require_sample_index(index, self.samples, "TemporalEnsembling")

    def _remember(self, index: Any, probabilities: Any) -> None:
        momentum = ops.convert_to_tensor(self.momentum)
        for memory, new in ((self.predictions, probabilities), (self.masses, 1.0)):
            old = take_rows(memory, index)
            assign_rows(memory, index, momentum * old + (1.0 - momentum) * new)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        config = super().get_config()
        del config["teacher_input"]
        return {**config, "samples": self.samples}


def _memory(shape: tuple[int, ...], name: str) -> keras.Variable:
    """Returns a variable of zeros that every replica writes alike."""
    return keras.Variable(
        "zeros",
        shape=shape,
        dtype="float32",
        trainable=False,
        name=name,
        autocast=False,
        aggregation="only_first_replica",
    )
