"""Generation: the loss of a generator without data, and which network learns in which step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from modreduce_keras.arguments import kept, require_choice, require_integer, require_number
from modreduce_keras.distillers.generation.losses import (
    activation_loss,
    adversarial_loss,
    information_loss,
    one_hot_loss,
)
from modreduce_keras.distillers.generation.statistics import normalizations, statistics_loss
from modreduce_keras.ops import float32
from modreduce_keras.registry import register
from modreduce_keras.taps import ModelOutput
from modreduce_keras.typing import Tensor

STUDENT, GENERATOR = "student", "generator"


class GeneratorTerm(NamedTuple):
    """A part of a generator's loss.

    Attributes:
        name: Its name in the logs, after `generator/`.
        compute: From the teacher's output and the student's logits for the generated images to
            (batch,).
        weight: Its weight.
    """

    name: str
    compute: Callable[[ModelOutput, Tensor], Tensor]
    weight: float


class Generation:
    """Base class of the methods of `mr.DataFreeDistiller`: what a generator is trained for.

    To add one, write `terms`, and `turns` where student and generator do not learn in the same
    step, and register the class by `@mr.register("generation", "NAME")`.

    Attributes:
        asks_student: Whether the generator's loss depends on the student's output.
        statistics: Weight of `statistics_loss`, beside the method's own terms.
    """

    asks_student = False
    statistics = 0.0

    @property
    def turns(self) -> list[tuple[str, ...]]:
        """The networks that learn in a step, for each step of a cycle."""
        return [(STUDENT, GENERATOR)]

    @property
    def teacher_taps(self) -> list[str]:
        """The taps of the teacher that the terms read."""
        return []

    def terms(self) -> list[GeneratorTerm]:
        """Returns the parts of the generator's loss."""
        raise NotImplementedError

    def taps_of(self, teacher: keras.Model) -> list[str]:
        """Returns the taps of a teacher that all terms read."""
        read = [*self.teacher_taps, *(normalizations(teacher) if self.statistics else ())]
        return list(dict.fromkeys(read))

    def terms_of(self, teacher: keras.Model) -> list[GeneratorTerm]:
        """Returns the parts of the generator's loss for a teacher."""
        if not self.statistics:
            return self.terms()
        norms = normalizations(teacher)

        def statistics(output: ModelOutput, _: Tensor) -> Tensor:
            value = statistics_loss(output.features, norms)
            return value + ops.zeros_like(float32(output.logits)[:, 0])

        return [*self.terms(), GeneratorTerm("statistics", statistics, self.statistics)]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return kept(self, Generation)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Generation":
        """Returns the method that `get_config` describes."""
        return cls(**config)


@register("generation", "zskt")
class ZSKT(Generation):
    """Zero-shot knowledge transfer: generates images on which student and teacher disagree.

        generator: -KL(softmax(z_t) ‖ softmax(z_s))
        student:    KL(softmax(z_t) ‖ softmax(z_s))

    In turns: of each `generator_updates + student_updates` steps the generator learns in the first,
    the student in the others, each on new noise.

    Args:
        generator_updates: Steps in a row in which the generator learns. Defaults to 1.
        student_updates: Steps in a row in which the student learns. Defaults to 10.
        statistics: Weight of the distance between the statistics of the generated images in the
            teacher's batch normalizations and those of its training data, as in DeepInversion.
            The paper has no such term, with which short trainings give more accurate students.
            Defaults to 0.

    Raises:
        ValueError: If a number of steps is not a positive integer, or `statistics` is negative.

    Example:
        >>> ZSKT(student_updates=2).turns
        [('generator',), ('student',), ('student',)]

    Reference:
        Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching, 2019.
        Their student also compares attention maps: add `mr.Feature("at", at=..., weight=250.0)` to
        the knowledge.
    """

    asks_student = True

    def __init__(
        self, *, generator_updates: int = 1, student_updates: int = 10, statistics: float = 0.0
    ):
        self.generator_updates = require_integer("generator_updates", generator_updates)
        self.student_updates = require_integer("student_updates", student_updates)
        self.statistics = require_number("statistics", statistics, least=0.0)

    @property
    def turns(self) -> list[tuple[str, ...]]:
        """The networks that learn in a step, for each step of a cycle."""
        turns: list[tuple[str, ...]] = [(GENERATOR,)] * self.generator_updates
        return turns + [(STUDENT,)] * self.student_updates

    def terms(self) -> list[GeneratorTerm]:
        """Returns the parts of the generator's loss."""

        def adversarial(teacher: ModelOutput, student: Tensor) -> Tensor:
            return adversarial_loss(teacher.logits, student)

        return [GeneratorTerm("adversarial", adversarial, 1.0)]


@register("generation", "dafl")
class DAFL(Generation):
    """Data-free learning: generates images that the teacher is sure of, equally for all classes.

        one_hot · CE(z_t, argmax z_t) - activation · mean |f_t| + information · Σ_c m_c log10 m_c

    with the teacher's logits z_t, the inputs f_t of its classifier, and the mean m of softmax(z_t)
    over the batch. Student and generator learn in the same step, on the same images. The authors'
    code trains the generator by Adam at 0.2 for MNIST and at 0.02 for CIFAR, ZSKT's at 0.001.

    Args:
        one_hot: Weight of the cross-entropy with the teacher's own prediction. Defaults to 1.
        activation: Weight of the activation. Defaults to 0.1.
        information: Weight of the information entropy over a batch. Defaults to 5.
        at: The tap of the teacher whose activation counts. Defaults to `"embedding"`, the input of
            its last Dense layer. `None`: no such term.
        variant: `"reference"`, the default: as in the authors' code, whose weights these are.
            `"paper"`: the activation is summed over the units, and the information divided by the
            number of classes, with the natural logarithm.
        statistics: As in `ZSKT`. Defaults to 0.

    Raises:
        ValueError: If a weight is negative, or `variant` is unknown.

    Example:
        >>> [(term.name, term.weight) for term in DAFL(information=20.0).terms()]
        [('one_hot', 1.0), ('activation', 0.1), ('information', 20.0)]

    Reference:
        Chen et al., Data-Free Learning of Student Networks, 2019.
    """

    def __init__(
        self,
        *,
        one_hot: float = 1.0,
        activation: float = 0.1,
        information: float = 5.0,
        at: str | None = "embedding",
        variant: str = "reference",
        statistics: float = 0.0,
    ):
        self.one_hot = require_number("one_hot", one_hot, least=0.0)
        self.activation = require_number("activation", activation, least=0.0)
        self.information = require_number("information", information, least=0.0)
        if at is not None and not (isinstance(at, str) and at):
            raise ValueError(f"at must be a tap of the teacher, or None. Received: {at=}")
        self.at = at
        self.variant = require_choice("variant", variant, ("reference", "paper"))
        self.statistics = require_number("statistics", statistics, least=0.0)

    @property
    def teacher_taps(self) -> list[str]:
        """The taps of the teacher that the terms read."""
        return [] if self.at is None else [self.at]

    def terms(self) -> list[GeneratorTerm]:
        """Returns the parts of the generator's loss."""
        terms = [
            GeneratorTerm("one_hot", lambda teacher, _: one_hot_loss(teacher.logits), self.one_hot)
        ]
        if self.at is not None:
            terms.append(GeneratorTerm("activation", self._activation, self.activation))
        return [*terms, GeneratorTerm("information", self._information, self.information)]

    def _activation(self, teacher: ModelOutput, _: Tensor) -> Tensor:
        [tap] = self.teacher_taps
        return activation_loss(teacher.features[tap], self.variant)

    def _information(self, teacher: ModelOutput, _: Tensor) -> Tensor:
        return information_loss(teacher.logits, self.variant)
