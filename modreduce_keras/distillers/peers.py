"""Online distillation: several students teach one another, with or without a teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras import knobs, registry
from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.distillers import checks
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.selection import BestStudent, Selection
from modreduce_keras.distillers.wiring import Forward
from modreduce_keras.knobs import Knob
from modreduce_keras.knowledge import Knowledge, Response, as_list
from modreduce_keras.losses.base import Loss
from modreduce_keras.registry import register


@register("distiller", "peer_distiller")
class PeerDistiller(BaseDistiller):
    """Trains several students that teach one another through an aggregator.

    total = Σ_i [supervised_weight · CE_i + Σ_k weight_ik · K_ik + online_weight · online(z_i, t_i)]
            + CE(z_e), where the aggregator learns

    The aggregator turns the students' logits z into a target t_i for each, and usually into an
    ensemble z_e. Targets are constants to the gradient.

    Args:
        students: At least two models with equal numbers of classes: a dict by name, or a list
            whose models have different names. Names must not contain "/".
        aggregator: An `Aggregator`, its config or its identifier. Defaults to `"mean"`.
        teacher: A trained model, or `None` (the default): peers only.
        knowledge: What each student is taught by the teacher: a dict from student to list.
        online_weight: Weight of what a student learns from its peers: a number that is not
            negative, or a schedule. Defaults to 1.
        online_loss: Loss of a student's logits against its target: a `Loss`, its config or its
            identifier. Defaults to `KD(temperature=3)`.
        supervised_weight: Weight of the compiled loss on the labels. Defaults to 1.
        criterion: Validation metric that decides which student is the best, without student and
            `val_`: `"accuracy"`, `"ce"`, ... Defaults to the accuracy if that is compiled, else to
            the compiled loss.
        criterion_mode: `"max"` or `"min"`. Defaults to `"min"` for losses and errors and to
            `"max"` for the rest.
        **kwargs: `name` and `dtype`, as for every Keras model.

    Raises:
        ValueError: If there are fewer than two students, a name or a model comes twice, the
            numbers of classes differ, or knowledge and teacher do not come together.

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
        criterion: str | None = None,
        criterion_mode: str | None = None,
        **kwargs: Any,
    ):
        students = _named(students)
        knowledge = _checked_knowledge(knowledge, students, teacher)
        super().__init__(
            students,
            teacher=teacher,
            knowledge=knowledge,
            supervised_weight=supervised_weight,
            **kwargs,
        )
        self.aggregator = registry.get("aggregator", aggregator, Aggregator)
        self.online_weight = online_weight
        if online_loss is None:
            online_loss = registry.get("loss", "kd", temperature=3.0)
        self.online_loss = registry.get("loss", online_loss, Loss)
        self._online_loss_variables = knobs.variables(self.online_loss)
        self.selection = Selection(list(students), criterion, criterion_mode)
        with knobs.bound([self.aggregator, self.online_loss], lambda: self.step):
            self._build_aggregator()

    def _build_aggregator(self) -> None:
        for name, student in self.students.items():
            output = self._wiring.outputs[name].logits
            checks.require_single_output(output, student, f"student {name!r}")
            if len(output.shape) != 2:
                raise ValueError(
                    "Peers teach one another by logits (batch, classes). Received: student "
                    f"{name!r} with an output of shape {tuple(output.shape)}"
                )
        classes = {name: spec.logits.shape[-1] for name, spec in self._wiring.outputs.items()}
        if len(set(classes.values())) > 1:
            raise ValueError(
                "Peers need equal numbers of classes to teach one another. Received: "
                + ", ".join(f"{name!r} with {number}" for name, number in classes.items())
            )
        for name, student in self.students.items():
            checks.require_logits(student, f"student {name!r}")
        shape = (None, len(self.students), next(iter(classes.values())))
        if not self.aggregator.built:
            self.aggregator.build(shape)
        group = self.aggregator.compute_output_spec(keras.KerasTensor(shape, "float32"))
        missing = {"targets", *self.aggregator.logs} - set(group)
        if missing or group["targets"].shape[1:] != shape[1:]:
            raise ValueError(
                f"{type(self.aggregator).__name__}.call must return a dict with 'targets' of "
                f"shape {shape} and with its logs {list(self.aggregator.logs)}. Received: "
                f"{ {name: tuple(value.shape) for name, value in group.items()} }"
            )
        self._has_ensemble = "ensemble" in group
        # A dry run, so that logits that do not suit the loss are an error here.
        pair = keras.KerasTensor((None, shape[-1]), "float32"), group["targets"][:, 0]
        Response(self.online_loss).compute_output_spec(*pair)

    # What runs

    @property
    def best_student_name(self) -> str:
        """The name of the student with the best score in the last validation of `fit`.

        Raises:
            ValueError: If no validation has run yet.
        """
        return self.selection.best()

    @property
    def best_student(self) -> keras.Model:
        """The student with the best score in the last validation of `fit`.

        Raises:
            ValueError: If no validation has run yet.
        """
        return self.students[self.best_student_name]

    def _deployed(self) -> keras.Model:
        # Before any validation, Keras may ask for the shape of the output; all are alike.
        return self.best_student if self.selection.decided else super()._deployed()

    def predict_step(self, data):
        """Predicts one batch with the best student."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.best_student(self._wiring.seen_by_students(x), training=False)

    def make_predict_function(self, force=False):
        """Makes the compiled prediction; again when another student has become the best."""
        best = self.best_student_name
        changed = best != getattr(self, "_predicting", best)
        self._predicting = best
        return super().make_predict_function(force=force or changed)

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> keras.callbacks.History:
        """Trains, as `keras.Model.fit` does, and notes which student validates best."""
        note = BestStudent(self.selection)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.callbacks.insert(0, note)
        else:
            callbacks = [note, *keras.tree.flatten([] if callbacks is None else callbacks)]
        return super().fit(*args, callbacks=callbacks, **kwargs)

    def forward(self, x, training: bool, with_teacher: bool | None = None) -> Forward:
        """Runs every network once, and the aggregator on the students' logits."""
        outputs = super().forward(x, training, with_teacher)
        logits = [ops.cast(output.logits, "float32") for output in outputs.students.values()]
        return outputs._replace(group=self.aggregator(ops.stack(logits, axis=1)))

    # Which terms there are

    def compute_terms(self, labels, outputs: Forward) -> dict[str, Any]:
        """Returns every term of a training step, (batch,) each, unweighted."""
        terms = super().compute_terms(labels, outputs)
        targets = outputs.group["targets"]
        for index, (name, output) in enumerate(outputs.students.items()):
            terms[self.term(name, "online")] = self.online_loss.call(
                targets[:, index], output.logits
            )
        if self._has_ensemble:
            terms |= self.supervised_terms(labels, {"ensemble": outputs.group["ensemble"]})
        return terms

    def term_weights(self) -> dict[str, Any]:
        """Returns the weight of every term, scalars in the graph."""
        weights = super().term_weights()
        weights |= {self.term(name, "online"): self.online_weight for name in self.students}
        if self.aggregator.learns:
            weights[self._ensemble_term()] = 1.0
        return weights

    def _ensemble_term(self) -> str:
        return self.term("ensemble", self._supervision.name)

    def variable_groups(self) -> dict[str, list[keras.Variable]]:
        """Returns the trainable variables by group: each student, and the aggregator."""
        return {**super().variable_groups(), "aggregator": self.aggregator.trainable_variables}

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, *args: Any, **kwargs: Any):
        """Configures training; see `BaseDistiller.compile`."""
        if loss is None and self.aggregator.learns:
            raise ValueError(
                f"The aggregator {self.aggregator.identifier!r} learns from the labels: compile "
                "with a loss. Received: loss=None"
            )
        super().compile(optimizer, loss, *args, **kwargs)
        self.selection.default = self._supervision and self._supervision.name

    # Logs

    def _metric_names(self) -> list[str]:
        return [*self.students, "ensemble"] if self._has_ensemble else list(self.students)

    def _logged_names(self) -> list[str]:
        names = [self.term(name, log) for log in self.aggregator.logs for name in self.students]
        logs_ensemble = self._has_ensemble and self._supervision is not None
        return [*names, self._ensemble_term()] if logs_ensemble else names

    def _logged_values(self, outputs: Forward) -> dict[str, Any]:
        return {
            self.term(name, log): outputs.group[log][index]
            for log in self.aggregator.logs
            for index, name in enumerate(self.students)
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, serialized."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "students": {name: serialize(student) for name, student in self.students.items()},
            "aggregator": serialize(self.aggregator),
            "knowledge": {
                name: [serialize(knowledge) for knowledge in several]
                for name, several in self.knowledge.items()
                if several
            },
            "online_loss": serialize(self.online_loss),
            "criterion": self.selection.criterion,
            "criterion_mode": self.selection.mode,
        }


def _named(students: Any) -> dict[str, keras.Model]:
    """Returns the students by name, or says what is wrong with them."""
    if not isinstance(students, Mapping):
        names = [student.name for student in students]
        twice = checks.repeated(names)
        if twice:
            raise ValueError(
                "Students in a list are told apart by their models' names. Name the models "
                f"differently, or give a dict by name. Received twice: {twice}"
            )
        students = dict(zip(names, students, strict=True))
    if len(students) < 2:
        raise ValueError(
            "Peers teach one another, so there must be at least two students (mr.Distiller trains "
            f"one). Received: {list(students)}"
        )
    unusable = [n for n in students if "/" in n or n in ("ensemble", "aggregator") or not n]
    if unusable:
        raise ValueError(
            "Names of students begin the names of their logs and must not contain '/' or be "
            f"'ensemble' or 'aggregator'. Received: {unusable}"
        )
    return dict(students)


def _checked_knowledge(knowledge: Any, students: Any, teacher: Any) -> dict[str, list[Knowledge]]:
    """Returns the knowledge by student, or says what does not go together."""
    knowledge = {name: as_list(several) for name, several in (knowledge or {}).items()}
    unknown = sorted(set(knowledge) - set(students))
    if unknown:
        raise ValueError(
            f"knowledge must be given by student, one of {list(students)}. Received: {unknown}"
        )
    checks.require_lessons(teacher, [one for several in knowledge.values() for one in several])
    objects = [id(one) for several in knowledge.values() for one in several]
    if len(set(objects)) < len(objects):
        raise ValueError(
            "Each student needs knowledge objects of its own, because they hold its adapters. "
            "Received: the same object for several students"
        )
    return knowledge
