"""Response knowledge: compares the student's outputs with those of one or several teachers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras import calls
from modreduce_keras.arguments import is_number, require_number
from modreduce_keras.knowledge import disagreement as measures
from modreduce_keras.knowledge import label_choice, masks
from modreduce_keras.knowledge.base import Knowledge, Taps
from modreduce_keras.labels import classes_of_one_hot
from modreduce_keras.losses.base import fits, require_one_feature
from modreduce_keras.losses.keras_loss import loss_from
from modreduce_keras.ops import (
    filled,
    float32,
    log_bernoulli,
    per_sample_mean,
    tempered_log_softmax,
)
from modreduce_keras.output_kind import CLASSES, REGRESSION
from modreduce_keras.registry import register
from modreduce_keras.top_k import TopK
from modreduce_keras.typing import Tensor

_KD, _BINARY_KD = "mr.losses.KD(temperature=1.0)", "mr.losses.BinaryKD(temperature=1.0)"
_VOCABULARIES = (
    "If they are vocabularies, these differ, and a token of one is another word in the other: give "
    "the student the teacher's tokenizer, or train it on text that the teacher writes "
    "(mr.data.generated). "
)
_OF_PROBABILITIES = {
    "BinaryCrossentropy": _BINARY_KD,
    "BinaryFocalCrossentropy": _BINARY_KD,
    "CategoricalCrossentropy": _KD,
    "CategoricalFocalCrossentropy": _KD,
    "KLDivergence": _KD,
    "SparseCategoricalCrossentropy": _KD,
}
"""What compares logits as losses of Keras do probabilities, by the class of the loss."""


@register("knowledge", "response")
class Response(Knowledge):
    """Response knowledge: compares the student's logits with the teacher's.

    With several teachers, the student learns from their average. By default this is the average of
    their probabilities at the temperature of the loss (1 if it has none, or several), turned back
    into logits: T log Σ_i w_i softmax(z_i / T). With `average="logits"` it is Σ_i w_i z_i. With
    `"binary_kd"`, probabilities are averaged for each label, p = Σ_i w_i sigmoid(z_i / T), as
    logits T log (p / (1 - p)). Other losses average probabilities of exclusive classes, and
    `compile` raises an error for other outputs.

    Args:
        loss: A loss on logits, its config or its identifier. Defaults to `"kd"`.
        at: Name of an output, or any tap, to read in both models instead of their only output.
        student: As `at`, for the student only.
        teacher: As `at`, for the teacher only. With several teachers: the name of one, or a list
            of names. Defaults to all.
        adapter: See `Knowledge`. Defaults to the adapter of the loss if it is a loss on logits,
            otherwise to `None`, because logits already have the same size.
        mask: See `Knowledge`.
        average: What is averaged over several teachers: `"probabilities"` or `"logits"`. Defaults
            to probabilities, and to logits if the loss compares plain numbers.
        teacher_weights: Positive weights of several teachers, which are scaled to sum to one.
            Defaults to equal weights.
        disagreement: A number β above 0 that gives less weight to samples on which several teachers
            disagree. The value of a sample (or position) is multiplied by exp(-β D), where D =
            H(Σ_i w_i p_i) - Σ_i w_i H(p_i) ≥ 0 is the Jensen-Shannon divergence of the teachers'
            probabilities p_i = softmax(z_i), in nats. For independent labels, D is the mean over
            the labels. If the loss compares plain numbers, D = Σ_i w_i (z_i - Σ_j w_j z_j)², the
            mean over the numbers. The loss on labels is not affected. Defaults to `None`: equal
            weights.
        ignore_class: See `Knowledge`. There is one label for each position of the logits, a class
            index or one-hot.
        weight: See `Knowledge`.
        staged: See `Knowledge`.
        name: See `Knowledge`.

    Raises:
        ValueError: If an argument is out of range; when the distiller is built, if the numbers of
            classes differ or an output must be chosen by name.

    Example:
        >>> import modreduce_keras as mr
        >>> float(mr.Response(mr.losses.KD(temperature=2.0), weight=0.9).loss.temperature)
        2.0

    Reference:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015. Houlsby et
        al., Bayesian Active Learning for Classification and Preference Learning, 2011, for the
        measure of disagreement.
    """

    def __init__(
        self,
        loss: Any = "kd",
        *,
        average: str | None = None,
        teacher_weights: Sequence[float] | None = None,
        ignore_class: int | None = None,
        disagreement: float | None = None,
        adapter: Any = "default",
        **kwargs: Any,
    ) -> None:
        loss = loss_from(loss)
        if loss.kind != "response" and isinstance(adapter, str) and adapter == "default":
            adapter = None  # logits are as wide as each other
        super().__init__(loss, adapter=adapter, ignore_class=ignore_class, **kwargs)
        self._require_logits_compared()
        if average not in (None, "probabilities", "logits"):
            raise ValueError(
                f"average must be 'probabilities', 'logits' or None. Received: {average=}"
            )
        if average == "probabilities" and self.loss.output_kinds == (REGRESSION,):
            raise ValueError(
                f"{type(self.loss).__name__} compares the outputs of a regression, which have no "
                f"probabilities to average: leave out average=. Received: {average=}"
            )
        if teacher_weights is not None:
            several = isinstance(teacher_weights, (Sequence, np.ndarray))
            if not several or not all(is_number(w) and w > 0 for w in teacher_weights):
                raise ValueError(
                    "teacher_weights must be a list of positive numbers, one for each teacher, or "
                    f"None. Received: {teacher_weights=}"
                )
            teacher_weights = list(map(float, teacher_weights))
        self.average, self.teacher_weights = average, teacher_weights
        if disagreement is not None:
            require_number("disagreement", disagreement, above=0.0)
        self.disagreement = disagreement
        self._several = False

    def _require_logits_compared(self) -> None:
        """Raises if it is a loss of Keras' that takes probabilities, and logits are compared."""
        compared = getattr(self.loss, "loss", None)
        written = _OF_PROBABILITIES.get(type(compared).__name__)
        if isinstance(compared, keras.losses.Loss) and written is not None:
            raise ValueError(
                f"Responses are logits, and {type(compared).__name__} compares probabilities with "
                f"labels: mr.Response({written}) compares the probabilities of both, and raises "
                f"the temperature if asked. Received: loss={calls.shown(compared)}"
            )

    def _check_taps(self, at: Taps, student: Taps, teacher: Taps) -> None:
        if at is not None and (student is not None or teacher is not None):
            super()._check_taps(at, student, teacher)

    def build(self, student_shape: Any, teacher_shape: Any) -> None:
        if self.loss.one_feature:
            require_one_feature(type(self.loss).__name__, student_shape)
        if self.loss.needs_teacher:
            self._check_classes(student_shape, teacher_shape)
        super().build(student_shape, teacher_shape)

    def _check_classes(self, student_shape: Any, teacher_shape: Any) -> None:
        several = self._several = isinstance(teacher_shape, list)
        if self.output_kinds == (CLASSES,) and student_shape[-1] == 1 and several:
            raise ValueError(
                f"Knowledge {self.name!r} averages the probabilities of classes, and one output "
                "has none: choose average='logits', or for a logit of yes or no "
                "mr.Response('binary_kd'). Received: average='probabilities' and teachers with "
                f"outputs of shapes {[tuple(shape) for shape in teacher_shape]}"
            )
        if self.disagreement is not None and not several:
            raise ValueError(
                f"Knowledge {self.name!r} has disagreement=, which needs several teachers, and "
                "there is one: leave out disagreement=, or give the distiller a list of "
                f"teachers. Received: disagreement={self.disagreement}"
            )
        if self.teacher_weights is not None:
            number = len(teacher_shape) if several else 1
            if len(self.teacher_weights) != number:
                raise ValueError(
                    f"Knowledge {self.name!r} needs one of teacher_weights for each of {number} "
                    f"teachers. Received: {self.teacher_weights}"
                )
        for shape in teacher_shape if several else [teacher_shape]:
            if student_shape[-1] != shape[-1]:
                remedy = _VOCABULARIES if len(shape) == 3 else ""
                if len(shape) == 2:
                    new = f"mr.models.with_classifier(student, {shape[-1]})"
                    remedy = f"{new} gives the student a new classifier. "
                raise ValueError(
                    f"Knowledge {self.name!r} compares logits, so student and teacher need the "
                    f"same number of classes. {remedy}Received: "
                    f"a student with {student_shape[-1]} and a teacher with {shape[-1]}"
                )
            self._check_positions(tuple(student_shape[1:-1]), tuple(shape[1:-1]))

    def _check_positions(self, student: Tensor, teacher: Tensor) -> Any:
        """Raises if both have logits of maps or sequences of different sizes."""
        if len(student) != len(teacher) or fits(student, teacher):
            return
        remedy = "choose models whose outputs have one length."
        ratios = [(a // b, a % b) for a, b in zip(student, teacher, strict=True)]
        if len(student) == 2:
            layer = f"Resizing({student[0]}, {student[1]})"
        elif len(student) == 1 and ratios[0][1] == 0:
            layer = f"UpSampling1D({ratios[0][0]})"
        elif len(student) == 1 and teacher[0] % student[0] == 0:
            layer = f"AveragePooling1D({teacher[0] // student[0]})"
        else:
            layer = None
        if layer:
            remedy = (
                "bring the teacher's to the student's resolution: keras.Model(teacher.input, "
                f"keras.layers.{layer}(teacher.output))."
            )
        raise ValueError(
            f"Knowledge {self.name!r} compares logits position by position; {remedy} Received: a "
            f"student with positions {student} and a teacher with {teacher}"
        )

    def symbolic_labels(self, feature: Any) -> keras.KerasTensor:
        """Returns symbolic labels, one for each position, or number, of the logits."""
        return label_choice.symbolic(self.loss, feature.shape, by_position=True)

    def kept_by_labels(self, kept: Any, pair: tuple[Any, Any], labels: Tensor) -> Any:
        """Returns masks without the positions whose label, of the logits, is `ignore_class`."""
        student = pair[0]
        common = None if kept is None else masks.common(self.name, kept)
        if len(labels.shape) == len(student.shape) and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, axis=-1)
        elif fits(labels.shape, student.shape):
            rows = None if common is None else filled(common, labels[..., 0])
            labels = classes_of_one_hot(labels, f"ignore_class of knowledge {self.name!r}", rows)
        if not fits(labels.shape, student.shape[:-1]):
            raise ValueError(
                f"ignore_class of knowledge {self.name!r} must have labels that are class indices "
                f"or one-hot, for each position of the logits. Received: labels of shape "
                f"{tuple(labels.shape)} and logits of shape {tuple(student.shape)}"
            )
        counted = ops.not_equal(labels, self.ignore_class)
        if common is not None:
            counted = ops.logical_and(counted, filled(common, counted))
        return {"student": counted, "teacher": counted}

    def one_teacher(self, teacher: Tensor) -> Any:
        """Returns the logits of the teacher, or the average of several."""
        return self._averaged(float32(teacher)) if isinstance(teacher, list) else teacher

    def outcomes(self, student: Any, teacher: Any, labels: Any) -> tuple[Any, Any, Any]:
        if not isinstance(teacher, TopK) or not self.loss.needs_teacher:
            return student, teacher, labels
        if labels is not None and self.loss.needs_labels:
            if len(labels.shape) == len(student.shape) and labels.shape[-1] == 1:
                labels = ops.squeeze(labels, axis=-1)
            if len(labels.shape) == len(student.shape):
                raise ValueError(
                    f"Knowledge {self.name!r} compares the largest logits of a cache, and needs "
                    "labels that are class indices: ops.argmax(labels, axis=-1) gives them. "
                    f"Received: labels of shape {tuple(labels.shape)}"
                )
            labels = teacher.outcome_of(labels, student.shape[-1])
        return teacher.outcomes_of(student), teacher.logits, labels

    @property
    def output_kinds(self) -> tuple[str, ...] | None:
        """Kinds of outputs that it can compare, and average over several teachers."""
        kinds = self.loss.output_kinds
        by_softmax = self._several and self._averages_probabilities() and kinds is None
        return (CLASSES,) if by_softmax else kinds

    def _averages_probabilities(self) -> bool:
        if self.average is not None:
            return self.average == "probabilities"
        return not self._compares_numbers()

    def _compares_numbers(self) -> bool:
        """Returns whether the loss takes outputs as the numbers they are."""
        kinds = self.loss.output_kinds
        return kinds == (REGRESSION,) or (
            kinds is None and getattr(self.loss, "least_classes", 2) == 1
        )

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
        """Returns the unweighted values per sample, (batch,), float32; see `Knowledge`."""
        given: dict[str, Any] = {"labels": labels, "index": index, "kept": kept}
        given |= {"inputs": inputs, "training": training}
        if self.disagreement is None:
            return super().call(student, teacher, by_position=by_position, **given)
        values = super().call(student, teacher, by_position=True, **given)
        agreement = ops.exp(-self.disagreement * self._disagreement(float32(teacher)))
        has_positions = len(agreement.shape) == len(values.shape)
        values = values * (agreement if has_positions else per_sample_mean(agreement))
        return values if by_position else per_sample_mean(values)

    def _disagreement(self, teachers: list[Tensor]) -> Tensor:
        kinds, shares = self.loss.output_kinds, self._shares(teachers)
        if self._compares_numbers():
            return measures.of_numbers(teachers, shares)
        of_labels = kinds is not None and CLASSES not in kinds
        measure = measures.of_labels if of_labels else measures.of_classes
        return ops.stop_gradient(measure(teachers, shares))

    def _shares(self, teachers: Any) -> list[float]:
        weights = self.teacher_weights or [1.0] * len(teachers)
        return [weight / sum(weights) for weight in weights]

    def _averaged(self, teachers: Any) -> Any:
        shares = self._shares(teachers)
        if not self._averages_probabilities():
            return sum(share * logits for share, logits in zip(shares, teachers, strict=True))
        temperature = getattr(self.loss, "temperature", 1.0)
        independent = CLASSES not in (self.output_kinds or ())
        log_probabilities = log_bernoulli if independent else tempered_log_softmax
        log_shares = [
            math.log(share) + log_probabilities(logits, temperature)
            for share, logits in zip(shares, teachers, strict=True)
        ]
        mixed = temperature * ops.logsumexp(ops.stack(log_shares), axis=0)
        return mixed[..., 0] - mixed[..., 1] if independent else mixed

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            **super().get_config(),
            "average": self.average,
            "teacher_weights": self.teacher_weights,
            "disagreement": self.disagreement,
        }
