"""Online distillation: several students learn from one another, with or without a teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras import knobs, registry
from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.checks import kind_checks, peer_arguments
from modreduce_keras.distillers.metrics import logs
from modreduce_keras.distillers.metrics.selection import BestStudent, Selection
from modreduce_keras.distillers.step.averages import EMAWeights
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import ENSEMBLE, Outputs
from modreduce_keras.distillers.step.group import AGGREGATOR, Group
from modreduce_keras.distillers.step.splitting import split
from modreduce_keras.distillers.step.supervision import LabelRule
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.knobs import Knob
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.knowledge.shorthand import unused
from modreduce_keras.losses.base import Loss
from modreduce_keras.output_kind import output_kind
from modreduce_keras.registry import register


class NoAggregator(Aggregator):
    """Stands for no aggregator: students do not learn from one another's outputs."""

    identifier = "none"

    def __init__(self) -> None:
        super().__init__(name="no_aggregator")
        self.built = True


@register("distiller", "peer_distiller")
class PeerDistiller(BaseDistiller):
    """Trains several students that learn from one another through an aggregator.

    total = Σ_i [supervised_weight · CE_i + Σ_k weight_ik · K_ik + online_weight · online(z_i, t_i)]
            + CE(z_e) if the aggregator has weights

    CE is the compiled loss on the labels, K_ik is the `knowledge`. The aggregator turns the logits
    z into targets t_i and, usually, an ensemble z_e. No gradient flows through the targets.

    With `compile(loss=None)` or `compile(evaluate_knowledge=True)`, `val_loss` is this total;
    otherwise it is the sum of the CE_i.

    Args:
        students: At least two models with equal numbers of classes: a dict by name, a list of
            models with different names, or the result of `mr.models.branch`: peers that share
            their lower layers, which then run once. Names must not contain "/". With an
            aggregator that has a leader (`"okddip"`), the last student is the leader.
        aggregator: An `Aggregator`, its config or its identifier; or `None` for students that do
            not learn from one another's outputs, such as those that
            `mr.callbacks.PeerAveraging` averages. Defaults to `"mean"`.
        teacher: A trained model, or `None` (the default): peers only.
        knowledge: What each student learns from the teacher: a dict from student to what
            `Distiller` takes as knowledge.
        online_weight: Weight of the online loss, by which a student learns from its peers: a
            number that is not negative, or a schedule. Defaults to 1.
        online_loss: Loss of a student's logits against its target: a `Loss`, its config or its
            identifier. Defaults to `KD(temperature=3)`, and to `BinaryKD(temperature=3)` for
            students with one logit. Students with several independent labels need
            `online_loss="binary_kd"`, because the kind of the outputs is known only at `compile`.
            For a regression, give `"logit_mse"`: `fit` refuses the default.
        supervised_weight: Weight of the compiled loss on the labels. Defaults to 1.
        features_at: The tap of the students' embeddings, for aggregators that compare them: one
            for all, or by student. Defaults to `"embedding"`.
        student_inputs: The input of each student, if they differ, by name or in their order: a
            function of the inputs, such as a Keras layer that augments (in training only), or a
            key of a dict `x` (which data for evaluation may lack). A teacher without
            `teacher_input` then runs on the input of each student. With a key for each student
            and `aggregator=None`, students may have samples of their own: labels and sample
            weights are then dicts by the same keys. Defaults to `None`.
        split_batches: If `True`, each batch is divided among the students in order, so that each
            trains on its own samples. Make the batch larger by the number of students. In an epoch,
            each student sees only its share of the data. If the batch cannot be divided evenly,
            some samples go to two students. Needs `aggregator=None`. Defaults to `False`.
        teacher_input: The teacher's input, if it differs from the students'; see `Distiller`.
        criterion: Which validation metric decides `best_student`, without the student's name and
            `val_`: `"accuracy"`, not `"val_a/accuracy"`. The last validation counts. Defaults to
            the accuracy if it is compiled, otherwise to the compiled loss. If there is neither,
            name a term that validation computes, such as `"kd"` or `"online"`; otherwise there is
            no best student.
        criterion_mode: `"max"` or `"min"`. Defaults to `"min"` for losses and errors and to
            `"max"` for the rest.
        teacher_dtype: Precision of the teacher: `None` (the default, its own precision), `"auto"`,
            `"float32"`, `"bfloat16"`, `"float16"`, or `"as_given"` for the unchanged model; see
            `BaseDistiller`.
        name: Name of the model. Defaults to the name of the class.
        dtype: Dtype policy of the distiller itself. Defaults to the global one.
        trainable: As for every Keras model. Defaults to `True`.

    Raises:
        ValueError: If there are fewer than two students, a name or a model is given twice, the
            numbers of classes differ, only one of knowledge and teacher is given, an online
            loss or weight comes with `aggregator=None`, or `split_batches` with an aggregator,
            `student_inputs` or `teacher_input`.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> peers = mr.PeerDistiller(
        ...     students={n: mr.models.get("convnet", num_classes=3, widths=(4,)) for n in "ab"},
        ...     aggregator="weighted_average",
        ... )
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> peers.compile({"a": "sgd", "b": "adam", "aggregator": "sgd"}, loss)
        >>> images, labels = np.ones((8, 28, 28, 1), "float32"), np.arange(8) % 3
        >>> sorted(peers.fit(images, labels, verbose=0).history)[:4]
        ['a/ce', 'a/ensemble_weight', 'a/online', 'b/ce']

    Reference:
        Song and Chai, Collaborative Learning for Deep Neural Networks, 2018; Lan, Zhu and Gong,
        Knowledge Distillation by On-the-Fly Native Ensemble, 2018.
    """

    online_weight = Knob()
    _online_temperature = 3.0

    def __init__(
        self,
        students: Mapping[str, keras.Model] | Sequence[keras.Model],
        *,
        aggregator: Any = "mean",
        teacher: keras.Model | None = None,
        knowledge: Mapping[str, list[Knowledge]] | None = None,
        online_weight: Any = 1.0,
        online_loss: Any = None,
        supervised_weight: Any = 1.0,
        features_at: str | Mapping[str, str] = "embedding",
        student_inputs: Any = None,
        split_batches: bool = False,
        teacher_input: Any = None,
        criterion: str | None = None,
        criterion_mode: str | None = None,
        teacher_dtype: str | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
    ):
        branches = students if isinstance(students, keras.Model) else None
        students = peer_arguments.named_students(students)
        knowledge = peer_arguments.checked_knowledge(knowledge, students, teacher)
        if split_batches is not False:
            given = aggregator, student_inputs, teacher_input
            student_inputs = peer_arguments.keys_of_splits(split_batches, given, students)
        self.split_batches = split_batches
        if aggregator is None:
            peer_arguments.require_no_exchange(online_weight, online_loss)
            aggregator, online_weight = NoAggregator(), 0.0
        aggregator = unused(registry.get("aggregator", aggregator, Aggregator))
        self._features_at = features_at
        features_at = peer_arguments.by_student("features_at", features_at, students)
        read = "features" in aggregator.needs
        super().__init__(
            students,
            teacher=teacher,
            knowledge=knowledge,
            teacher_input=teacher_input,
            supervised_weight=supervised_weight,
            student_inputs=peer_arguments.by_student("student_inputs", student_inputs, students),
            student_taps={name: [tap] for name, tap in features_at.items()} if read else None,
            branches=branches,
            teacher_dtype=teacher_dtype,
            name=name,
            dtype=dtype,
            trainable=trainable,
        )
        self.aggregator = aggregator
        self.online_weight = online_weight
        self.online_loss = self._online_loss_of(online_loss)
        self._has_default_online_loss = online_loss is None
        self._online_loss_variables = knobs.variables(self.online_loss)
        self.selection = Selection(list(students), criterion, criterion_mode)
        with knobs.bound([self.aggregator, self.online_loss], lambda: self.step):
            self._group = Group(self.aggregator, self.online_loss, self._forward, features_at)
            self._has_ensemble = self._exchanges and ENSEMBLE in self._group.build(self._forward)
        averages = "averages" in self.aggregator.needs
        self.past = EMAWeights(self.students, self.aggregator.keep) if averages else None
        self._group.past = self.past

    def _online_loss_of(self, given: Any) -> Loss:
        return peer_arguments.online_loss(given, self.student_output(), self._online_temperature)

    # What runs

    @property
    def student_inputs(self) -> dict[str, Any]:
        """What each student sees, by name, where they differ."""
        return dict(self._student_inputs)

    def split(self, data: Any) -> Any:
        """Returns the data of a training step by student, with `split_batches`."""
        return split(data, list(self.student_inputs.values())) if self.split_batches else data

    @property
    def _exchanges(self) -> bool:
        """Whether students learn from one another's outputs."""
        return not isinstance(self.aggregator, NoAggregator)

    @property
    def best_student_name(self) -> str:
        """The name of the student to deploy.

        It is the aggregator's leader if it has one, else the student with the best score in the
        last validation of `fit`.

        Raises:
            ValueError: If no validation has run yet.
        """
        return list(self.students)[-1] if self.aggregator.has_leader else self.selection.best()

    @property
    def best_student(self) -> keras.Model:
        """The student of that name.

        Raises:
            ValueError: If no validation has run yet.
        """
        return self.students[self.best_student_name]

    def deployed_name(self) -> str:
        # Before any validation, Keras may ask for the shape of the output; all are alike.
        decided = self.aggregator.has_leader or self.selection.decided
        return self.best_student_name if decided else super().deployed_name()

    def predict_step(self, data: Any) -> Any:
        """Predicts one batch with the best student."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        name = self.best_student_name
        return self.students[name](self._forward.seen_by(name, x), training=False)

    def make_predict_function(self, force: Any = False) -> Any:
        """Makes the compiled prediction; again when another student has become the best."""
        best = self.best_student_name
        changed = best != getattr(self, "_predicting", best)
        self._predicting = best
        return super().make_predict_function(force=force or changed)

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """Trains, as `keras.Model.fit` does, and notes which student validates best."""
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.callbacks[:0] = self.own_callbacks(callbacks.callbacks)
        else:
            callbacks = keras.tree.flatten([] if callbacks is None else callbacks)
            callbacks = [*self.own_callbacks(callbacks), *callbacks]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def own_callbacks(self, given: list[Any]) -> list[keras.callbacks.Callback]:
        """Returns the callbacks that `fit` puts before those that it is given."""
        own = [BestStudent(self.selection)]
        if self.past is not None and self.aggregator.average_every == "epoch":
            update = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: self.past.update())
            own.append(update)
        return own

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        """Runs every network once, and the aggregator on the students' outputs."""
        outputs = super().forward_pass(batch, training, with_teacher)
        if not self._exchanges:
            peer_arguments.require_same_view(outputs, self._teacher_input)
            return outputs
        peer_arguments.require_same_samples(outputs)
        group = self._group(outputs, training, self.policy)
        return outputs.replace(extra=group, ensemble=group.get(ENSEMBLE))

    def after_step(self) -> None:
        """Updates the students' EMA weights, if they are updated in every step."""
        if self.past is not None and self.aggregator.average_every == "step":
            self.past.update()

    # Which terms there are

    def build_terms(self) -> list[Term]:
        """Returns the terms of the loss: offline, online, and the ensemble's."""
        online = [self._online_term(name) for name in self.students if self._exchanges]
        return [*self.offline_terms(), *online, *self._ensemble_terms()]

    def _online_term(self, name: str) -> Term:
        def compute(outputs: Outputs) -> Any:
            return self._group.online_loss(name, outputs, self.policy)

        return Term("online", compute, lambda: self.online_weight, name, name)

    def _ensemble_terms(self) -> list[Term]:
        if not self._has_ensemble:
            return []
        weight = (lambda: 1.0) if self.aggregator.learns else None
        return self.supervised_terms(ENSEMBLE, weight, network=AGGREGATOR)

    def networks(self) -> dict[str, list[keras.layers.Layer]]:
        """Returns the layers of each network: those of the students, and the aggregator."""
        return {**super().networks(), AGGREGATOR: [self.aggregator]}

    def variable_groups(self) -> dict[str, list[keras.Variable]]:
        """Returns the trainable variables by group: each student, and the aggregator."""
        return {**super().variable_groups(), AGGREGATOR: self.aggregator.trainable_variables}

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        """Configures training; see `BaseDistiller.compile`."""
        if loss is None and self.aggregator.learns:
            raise ValueError(
                f"The aggregator {self.aggregator.identifier!r} learns from the labels: compile "
                "with a loss. Received: loss=None"
            )
        super().compile(optimizer, loss, *args, **kwargs)
        self._group.output_kind = output_kind(loss, self.student_output().shape)
        made = self.compilation.supervision
        self.selection.default = made.names[0] if made else None
        self.selection.terms = frozenset(term.name for term in self.objective().terms)

    def parts_on_outputs(self) -> list[kind_checks.Part]:
        """Returns what compares outputs, the aggregator and the online loss among them."""
        online = kind_checks.online_parts(
            self.aggregator, self.online_loss, self._has_default_online_loss
        )
        return [*super().parts_on_outputs(), *(online if self._exchanges else [])]

    def label_rules(self) -> list[LabelRule]:
        """Returns the parts that need class indices, the aggregator among them."""
        made, output = self.compilation.supervision, self.student_output()
        return logs.label_rules(made, self.all_knowledge(), self.aggregator, output)

    # Logs

    def measured(self) -> list[str]:
        """Returns whose logits the compiled metrics are computed on, the ensemble's among them."""
        return [*self.students, ENSEMBLE] if self._has_ensemble else list(self.students)

    def shown_measures(self) -> list[str]:
        """Returns measures of a student for the progress bar, the criterion first."""
        criterion = self.selection.criterion
        return [*([criterion] if criterion else []), *super().shown_measures()]

    def names_in_logs(self) -> list[str]:
        """Returns names that a knowledge cannot have, those of the aggregator's logs among them."""
        return [*super().names_in_logs(), *self.aggregator.logs]

    def logged_names(self) -> list[str]:
        """Returns the names of what the aggregator logs."""
        return [name for log in self.aggregator.logs for name in self._names_of_log(log)]

    def _names_of_log(self, log: str) -> list[str]:
        per_peer = self._group.shapes[log] != ()
        return [self.log_name(name, log) for name in self.students] if per_peer else [log]

    def logged_values(self, outputs: Outputs) -> dict[str, Any]:
        """Returns what the aggregator logs, by name."""
        values: dict[str, Any] = {}
        for log in self.aggregator.logs:
            names = self._names_of_log(log)
            each = ops.unstack(ops.reshape(outputs.extra[log], (len(names),)))
            values |= dict(zip(names, each, strict=True))
        return values

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "students": self._serialized_students(),
            "aggregator": serialize(self.aggregator) if self._exchanges else None,
            "knowledge": {
                name: [serialize(knowledge) for knowledge in several]
                for name, several in self.knowledge.items()
                if several
            },
            "online_loss": self._serialized_online_loss() if self._exchanges else None,
            "criterion": self.selection.criterion,
            "criterion_mode": self.selection.mode,
            "features_at": self._features_at,
            "student_inputs": None
            if self.split_batches
            else {name: serialize(view) for name, view in self._student_inputs.items()},
            "split_batches": self.split_batches,
        }

    def _serialized_online_loss(self) -> dict[str, Any] | None:
        # Labels are checked more strictly beside a default, also after loading.
        config = keras.saving.serialize_keras_object(self.online_loss)
        usual = self._has_default_online_loss and self._online_loss_of(None)
        return None if usual and keras.saving.serialize_keras_object(usual) == config else config

    def _serialized_students(self) -> Any:
        serialize = keras.saving.serialize_keras_object
        if self._forward.trunk is not None:  # apart, they would no longer share it
            return serialize(self._forward.trunk.branches)
        return {name: serialize(student) for name, student in self.students.items()}
