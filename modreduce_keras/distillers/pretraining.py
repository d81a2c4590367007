"""Pretraining: the stage that some methods run before the joint training, in one mechanism."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from modreduce_keras.distillers.loss_scales import LossScales, computes_in_float16
from modreduce_keras.distillers.reduction import (
    mean_over_replicas,
    number_of_examples,
    weighted_sum,
)
from modreduce_keras.distillers.replicated import ReplicatedModel, average_statistics
from modreduce_keras.distillers.sample_weights import by_sample_weight, have_positions
from modreduce_keras.distillers.trackers import Trackers
from modreduce_keras.distillers.updates import Updates
from modreduce_keras.held import Held
from modreduce_keras.knowledge import Knowledge


class Stage(ReplicatedModel):
    """Trains what the knowledge of a distiller declares, by the terms that it declares.

    Args:
        distiller: The distiller whose stage it is.
        run: Runs its networks.
        pairs: (student, knowledge) for each knowledge that has a stage of its own.
    """

    def __init__(self, distiller: Any, run: Any, pairs: list[tuple[str, Knowledge]]):
        super().__init__(name="pretraining", dtype=distiller.dtype_policy)
        self._distiller, self._pairs, self._run = Held(distiller), Held(pairs), run
        self._staged = {name for name, one in pairs if one.staged}
        self._trackers = Trackers(distiller.term(name, one.name) for name, one in pairs)
        self._updates = Updates({})
        self.built = True

    def guard(self) -> None:
        """Gives the stage a loss scale of its own, where something computes in float16."""
        distiller, name = self._distiller(), self.name
        parts = [*distiller.students.values(), *distiller.taught()]
        if not (distiller._scales_loss and computes_in_float16(parts)):
            return
        scales = LossScales([name])
        scales.begin([True], {})
        self._updates = Updates({name: parts}, scales, network_of=lambda term: name)
        self._updates.keep(self.optimizer, [v for part in parts for v in part.variables])

    def _weighed_as(self) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
        """Returns the output that a term is of, terms on labels (none), and names of outputs."""
        distiller = self._distiller()
        output = distiller._student_output()
        names = list(output) if isinstance(output, Mapping) else []
        return distiller.read_outputs(self._pairs(), names), (), names

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What this stage trains."""
        students = self._distiller().students
        variables = [
            v for name, one in self._pairs() for v in one.pretraining_variables(students[name])
        ]
        return list({id(variable): variable for variable in variables}.values())

    @property
    def metrics(self):
        """The loss and every term."""
        return super().metrics + self._trackers.metrics

    def train_step(self, data):
        """Runs one step on a batch."""
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        distiller, variables = self._distiller(), self.trainable_variables
        keeping, fused = self._updates.keeping(), distiller.fused_kernels()
        with keeping as before, tf.GradientTape() as tape, fused:
            # Those that are this stage's alone do not count as trainable elsewhere.
            tape.watch([variable.value for variable in variables])
            outputs = self._run(x, self._staged.__contains__, with_teacher=True)
            outputs = outputs._replace(by_position=have_positions(sample_weight))
            terms, weights = {}, {}
            for name, one in self._pairs():
                pair, context = outputs.lesson_of(name, one, labels)
                term = distiller.term(name, one.name)
                terms[term] = one.pretraining_call(*pair, **context)
                weights[term] = one.weight if one.staged else 1.0
            terms = by_sample_weight(terms, sample_weight, *self._weighed_as())
            examples = number_of_examples(x)
            per_example = weighted_sum(self._updates.scaled_terms(terms), weights, examples)
            loss = self.optimizer.scale_loss(mean_over_replicas(per_example))
        self._trackers.update(terms, examples)
        self._loss_tracker.update_state(per_example)
        gradients = tape.gradient(loss, variables)
        # A term that is read at a tap does not reach the layers above it.
        reached = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        self._updates.apply(
            self.optimizer, *zip(*reached, strict=True), terms=terms, before=before, step=0
        )
        average_statistics(distiller)
        return self._step_logs(self.get_metrics_result())


def pretrain(
    distiller: Any, run: Any, optimizer: Any, x: Any, y: Any, arguments: dict[str, Any]
) -> keras.callbacks.History:
    """Trains the stage of a distiller; see `BaseDistiller.pretrain`."""
    pairs = [(s, one) for s, several in distiller.knowledge.items() for one in several]
    pairs = [(student, one) for student, one in pairs if one.pretrains]
    if not pairs:
        raise ValueError(
            "pretrain is for knowledge that has a stage of its own before fit (staged=True makes "
            f"one). Received: {[one.name for one in distiller.taught()]}, which have none"
        )
    refused = sorted(name for name in arguments if name.startswith("validation"))
    if refused:
        raise ValueError(f"pretrain trains a stage and validates nothing. Received: {refused}")
    with distiller.distribute_strategy.scope():
        stage = Stage(distiller, run, pairs)
        stage.compile(
            optimizer=optimizer,
            run_eagerly=distiller.run_eagerly,
            auto_scale_loss=False,
            jit_compile=distiller.jit_compile if distiller.compiled else "auto",
        )
        stage.optimizer.build(stage.trainable_variables)
        stage.guard()
        history = stage.fit(x, y, **arguments)
    for _, one in pairs:
        one.pretrained.assign(1.0)
    return history


def require_pretrained(taught: list[Knowledge]) -> None:
    """Raises if a knowledge that has a stage of its own has not been through it."""
    missing = [one.name for one in taught if one.pretrains and not one.has_pretrained()]
    if missing:
        raise ValueError(
            f"{missing} must be trained in a stage of their own first: call "
            "distiller.pretrain(dataset, epochs=...) before fit. (staged=False in a knowledge "
            "trains a staged loss jointly; another adapter may have no such stage.)"
        )
