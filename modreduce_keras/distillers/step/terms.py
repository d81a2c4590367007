"""Terms: what a distiller's loss is the weighted sum of."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras

from modreduce_keras.arguments import is_number
from modreduce_keras.distillers.step.forward import Outputs
from modreduce_keras.distillers.step.supervision import NamedSupervision, Supervision
from modreduce_keras.knowledge import Knowledge


@dataclasses.dataclass(frozen=True, eq=False)
class Term:
    """One term of the loss: its name, its values, its weight, and what it trains.

    Attributes:
        name: Its name among the terms of its student.
        compute: From the outputs of a forward pass to the unweighted values, (batch,), or
            (batch, positions...) where `outputs.batch.by_position`.
        weight: The weight: a number, or a function without arguments that returns a scalar in the
            graph. `None`: the term is logged and is not part of the loss.
        student: The student that the term belongs to; `"ensemble"` for that of the peers; `None`
            where there is only one student.
        network: The network that it trains (see `GradientPolicy`). Defaults to `None`: that of the
            student, or the only one.
        output: The named output of the model that it is computed on, where there are several.
        on_labels: Whether it is a compiled loss on labels, which evaluation computes in any case.
        training_only: Whether evaluation never computes it, because it needs something that only
            training steps have, such as each sample's index in the training data.
        knowledge: The knowledge whose term it is, if it is that of one.
        unscaled: The weight without the factors of `scaled`. Defaults to the weight.
    """

    name: str
    compute: Callable[[Outputs], Any]
    weight: Any
    student: str | None = None
    network: str | None = None
    output: str | None = None
    on_labels: bool = False
    training_only: bool = False
    knowledge: Knowledge | None = None
    unscaled: Any = None

    def __post_init__(self) -> None:
        if is_number(self.weight):
            number = float(self.weight)
            object.__setattr__(self, "weight", lambda: number)
        for argument in ("compute", "weight"):
            given = getattr(self, argument)
            if not callable(given) and (argument, given) != ("weight", None):
                raise TypeError(
                    f"{argument} of the {self.described} must be a function"
                    f"{', a number or None' if argument == 'weight' else ''}. Received: {given!r}"
                )
        if self.unscaled is None:
            object.__setattr__(self, "unscaled", self.weight)

    @property
    def trains(self) -> str | None:
        """The network that it trains, or the student whose network that is."""
        return self.network or self.student

    @property
    def log_name(self) -> str:
        """The name in the logs: `"kd"`, or `"response/kd"` where there are several students."""
        return self.name if self.student is None else f"{self.student}/{self.name}"

    @property
    def described(self) -> str:
        """What messages call it."""
        return f"term {self.name!r}" + (f" of {self.student!r}" if self.student else "")

    def values(self, outputs: Outputs) -> Any:
        """Returns the unweighted values, (batch,) or (batch, positions...).

        Raises:
            ValueError: If there is not one value, or one row of them, for each example.
        """
        values = self.compute(outputs)
        shape = getattr(values, "shape", None)
        if shape is None or len(shape) == 0:
            raise ValueError(
                f"The {self.described} must return a tensor with one value for each example, "
                f"(batch,). Received: {values if shape is None else 'a scalar'}"
            )
        inputs = keras.tree.flatten(outputs.batch.inputs)
        sizes = {shape[0], *(size for one in inputs[:1] for size in one.shape[:1])} - {None}
        if len(sizes) > 1:
            raise ValueError(
                f"The {self.described} must return one value for each example, (batch,). "
                f"Received: values of shape {tuple(shape)} for {inputs[0].shape[0]} examples"
            )
        return values

    def scaled(self, factor: Callable[[], Any]) -> "Term":
        """Returns the term with its weight times a factor, a scalar in the graph."""
        weight = self.weight
        return dataclasses.replace(self, weight=lambda: factor() * weight())


def supervised_terms(
    supervision: Supervision | NamedSupervision | None,
    student: str,
    weight: Callable[[], Any] | None,
    *,
    owner: str | None,
    network: str | None = None,
) -> list[Term]:
    """Returns the terms of the compiled loss on the labels for a student.

    Args:
        supervision: The compiled loss, or `None`.
        student: Name of the student, or `"ensemble"`.
        weight: Returns the weight.
        owner: Whose terms they are in the logs.
        network: What they train. Defaults to the student's network.
    """
    if supervision is None:
        return []
    made = supervision

    def term(name: str) -> Term:
        def compute(outputs: Outputs) -> Any:
            labels = outputs.batch_of(student).y
            if labels is None:
                raise ValueError(
                    "A loss is compiled, but the data have no labels y: give fit(x, y) and "
                    "validation_data=(x, y) both, or compile without a loss to learn from the "
                    "teacher alone. Received: y=None"
                )
            return made.by_position(name, labels, outputs.logits()[student])

        output = made.outputs.get(name)
        return Term(name, compute, weight, owner, network or student, output, on_labels=True)

    return [term(name) for name in supervision.names]


def knowledge_term(
    student: str, knowledge: Knowledge, *, owner: str | None, outputs: Iterable[str]
) -> Term:
    """Returns the term of a knowledge of a student.

    Args:
        student: Name of the student.
        knowledge: What it learns.
        owner: Whose term it is in the logs.
        outputs: Names of the outputs whose sample weights the term takes, if it reads one of them.
    """

    def compute(found: Outputs) -> Any:
        pair, context = found.arguments_of(student, knowledge)
        return knowledge(*pair, **context, training=found.training)

    named = knowledge.student if knowledge.labels is None else knowledge.labels
    output = named if isinstance(named, str) and named in set(outputs) else None
    return Term(
        knowledge.name,
        compute,
        knowledge.weight_in_loss,
        owner,
        student,
        output,
        training_only=knowledge.adapter is not None and knowledge.adapter.needs_index,
        knowledge=knowledge,
    )
