"""Pretraining: the stage that some methods run before the joint training, in one mechanism."""

import contextlib
from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras.distillers import saving
from modreduce_keras.distillers.checks import compile_and_fit
from modreduce_keras.distillers.gradients.base import GradientPolicy
from modreduce_keras.distillers.gradients.loss_scales import LossScales, computes_in_float16
from modreduce_keras.distillers.gradients.skip_nonfinite import SkipNonFinite
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import ForwardPass, Outputs
from modreduce_keras.distillers.step.model import StepModel
from modreduce_keras.distillers.step.objective import Objective
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.held import Held
from modreduce_keras.knowledge import Knowledge


class Stage(StepModel):
    """Trains what the knowledge of a distiller declares, by the terms that it declares.

    Args:
        distiller: The distiller whose stage it is.
        forward: Runs its networks.
        pairs: (student, knowledge) for each knowledge that has a separate stage.
    """

    def __init__(self, distiller: Any, forward: ForwardPass, pairs: list[tuple[str, Knowledge]]):
        super().__init__(name="pretraining", dtype=distiller.dtype_policy)
        self._distiller, self._pairs, self._forward = Held(distiller), Held(pairs), Held(forward)
        self._staged = {name for name, one in pairs if one.staged}
        output = distiller.student_output()
        named = list(output) if isinstance(output, Mapping) else []
        self._loss = Objective([self._term(*pair, named) for pair in pairs], outputs=named)
        self.policy, self.tracing = GradientPolicy({self.name: []}), distiller.tracing
        self.built = True

    def _term(self, student: str, knowledge: Knowledge, outputs: list[str]) -> Term:
        def compute(found: Outputs) -> Any:
            pair, context = found.arguments_of(student, knowledge)
            return knowledge.pretraining_call(*pair, **context)

        def weight() -> Any:
            return knowledge.weight if knowledge.staged else 1.0

        name = self._distiller().log_name(student, knowledge.name)
        named = isinstance(knowledge.student, str) and knowledge.student in outputs
        return Term(name, compute, weight, output=str(knowledge.student) if named else None)

    def guard(self, scales_loss: bool) -> None:
        """Gives the stage a loss scale of its own, where something computes in float16."""
        distiller = self._distiller()
        parts = [*distiller.students.values(), *distiller.all_knowledge()]
        if not (scales_loss and computes_in_float16(parts)):
            return
        scales = LossScales([self.name])
        scales.begin([True], {})
        variables = [v for part in parts for v in part.variables]
        networks = {self.name: parts}
        self.policy = SkipNonFinite(networks, scales, None, self.step, self.optimizer, variables)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What this stage trains."""
        students = self._distiller().students
        variables = [
            v for name, one in self._pairs() for v in one.pretraining_variables(students[name])
        ]
        return list({id(variable): variable for variable in variables}.values())

    def watched(self) -> list[keras.Variable]:
        """Returns the same: those that are this stage's alone are not trainable elsewhere."""
        return self.trainable_variables

    def applicable(self, gradients: list[Any]) -> list[tuple[Any, keras.Variable]]:
        """Returns the gradients that there are: a term at a tap misses the layers above it."""
        return [pair for pair in super().applicable(gradients) if pair[0] is not None]

    def forward_pass(self, batch: Batch, training: bool, with_teacher: bool) -> Outputs:
        """Runs the distiller's networks, in training those alone that this stage trains."""
        return self._forward()(batch, self._staged.__contains__, with_teacher)

    def split(self, data: Any) -> Any:
        """Returns the data of a step as the distiller's own steps take them."""
        return self._distiller().split(data)

    def objective(self) -> Objective:
        """Returns the terms that the knowledge declares."""
        return self._loss

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context that the distiller's own steps run in."""
        return self._distiller().kernels()

    def layers_that_run(self) -> list[keras.layers.Layer]:
        """Returns the layers of the distiller."""
        return self._distiller().layers_that_run()


def pretrain(  # noqa: D417
    self: Any, x: Any = None, y: Any = None, *, optimizer: Any = "adam", **arguments: Any
) -> Any:
    """Runs the stage that some methods train before `fit`.

    Staged knowledge (FSP, AB) trains the student and its adapters with that term alone;
    adapters with a pretraining stage (the paraphraser of factor transfer) are trained with
    their own loss. Labels, regularizers and other knowledge are not used. The stage is
    recorded and saved, and `fit` raises an error if it is missing.

    Args:
        x: The data, as for `fit`.
        y: The labels, if `x` does not contain them; needed only by losses on labels.
        optimizer: Optimizer of this stage. Defaults to `"adam"`.
        **arguments: `epochs`, `batch_size`, `callbacks`, ..., as for `fit`.

    Returns:
        The history of the stage: the weighted sum `loss`, and each term.

    Raises:
        ValueError: If no knowledge has such a stage.
    """
    saving.require_teacher_weights(self)
    compile_and_fit.require_data(self, {"x": x, "y": y, **arguments}, steps="steps_per_epoch")
    self.tracing.follow()
    return _trained(self, self._forward, optimizer, x, y, arguments)


def _trained(
    distiller: Any, forward: ForwardPass, optimizer: Any, x: Any, y: Any, arguments: dict[str, Any]
) -> keras.callbacks.History:
    pairs = [(s, one) for s, several in distiller.knowledge.items() for one in several]
    pairs = [(student, one) for student, one in pairs if one.pretrains]
    if not pairs:
        raise ValueError(
            "pretrain is for knowledge that has a stage of its own before fit (staged=True makes "
            f"one). Received: {[one.name for one in distiller.all_knowledge()]}, which have none"
        )
    refused = sorted(name for name in arguments if name.startswith("validation"))
    if refused:
        raise ValueError(f"pretrain trains a stage and validates nothing. Received: {refused}")
    with distiller.distribute_strategy.scope():
        stage = Stage(distiller, forward, pairs)
        stage.compile(
            optimizer=optimizer,
            run_eagerly=distiller.run_eagerly,
            auto_scale_loss=False,
            jit_compile=distiller.jit_compile if distiller.compiled else "auto",
        )
        stage.optimizer.build(stage.trainable_variables)
        stage.guard(distiller.compilation.scales_loss)
        history = stage.fit(x, y, **arguments)
    for _, one in pairs:
        one.pretrained.assign(1.0)
    return history


def require_pretrained(knowledge: list[Knowledge]) -> None:
    """Raises if a knowledge that has a separate stage has not been through it."""
    missing = [one.name for one in knowledge if one.pretrains and not one.has_pretrained()]
    if missing:
        raise ValueError(
            f"{missing} must be trained in a stage of their own first: call "
            "distiller.pretrain(dataset, epochs=...) before fit. (staged=False in a knowledge "
            "trains a staged loss jointly; another adapter may have no such stage.)"
        )
