"""Objective: the terms of a loss, and the one place where they are weighted, reduced and logged."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
from keras import ops

from modreduce_keras.distillers import balanced
from modreduce_keras.distillers.checks import repeated
from modreduce_keras.distillers.gradients.base import GradientPolicy
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import ENSEMBLE, Outputs
from modreduce_keras.distillers.step.sample_weights import by_sample_weight
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.distillers.step.trackers import Trackers, update
from modreduce_keras.distribute import num_replicas, sum_over_replicas


class Result(NamedTuple):
    """What the objective made of a forward pass.

    Attributes:
        loss: This replica's part of the loss, a scalar.
        terms: Each weighted term with its values, (batch,), whose gradient is scaled for its
            network.
    """

    loss: Any
    terms: list[tuple[Term, Any]]


class Objective:
    """The loss of a distiller.

    A plain object on purpose: it is built again by each `compile`, and Keras never forgets a metric
    that a model once held.

    Args:
        terms: The terms, with different names in the logs.
        logs: Names of further values that are logged.
        outputs: Names of the outputs of a student that has several.
        evaluates_all: Whether evaluation computes the whole loss, and not the terms on labels
            alone.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        logs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        *,
        evaluates_all: bool = False,
    ):
        self.terms, self.evaluates_all = list(terms), evaluates_all
        names = [*(term.log_name for term in self.terms), *logs, "loss"]
        if len(set(names)) < len(names):
            raise ValueError(
                "Terms and logged values need different names in the logs, other than 'loss'. "
                f"Received several named {repeated(names)}"
            )
        weighted = [term.log_name for term in self.terms if term.weight is not None]
        others = [term.log_name for term in self.terms if term.weight is None]
        self._trackers = Trackers([*weighted, *logs, *others])
        self._outputs = list(outputs)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means of all terms and logged values."""
        return self._trackers.metrics

    def not_computed(self) -> frozenset[str]:
        """Returns names in the logs of what no step has computed since the last reset."""
        return self._trackers.empty()

    @property
    def trained_only(self) -> frozenset[str]:
        """Names in the logs of what evaluation does not compute."""
        evaluated = {term.log_name for term in self.terms if self._is_evaluated(term)}
        return self._trackers.names - evaluated

    def _is_evaluated(self, term: Term) -> bool:
        in_loss = term.weight is not None and not term.training_only
        return term.on_labels or (self.evaluates_all and in_loss)

    def values(self, outputs: Outputs, training: bool = True) -> dict[Term, Any]:
        """Returns the unweighted values of every term, or of those that evaluation computes.

        Terms of networks that the step does not train are left out.
        """
        terms = [term for term in self.terms if training or self._is_evaluated(term)]
        terms = [term for term in terms if outputs.trains(term.trains)]
        return {term: term.values(outputs) for term in terms}

    def outputs_of(self, batch: Batch) -> set[str]:
        """Returns the names of the outputs that sample weights of a batch may be given by."""
        labelled = batch.y if isinstance(batch.y, Mapping) else ()
        return {*self._outputs, *labelled}

    def weights(self) -> dict[str, Any]:
        """Returns the weight of every term of the loss by its name in the logs."""
        return {term.log_name: term.weight() for term in self.terms if term.weight is not None}

    def __call__(
        self,
        outputs: Outputs,
        policy: GradientPolicy,
        *,
        training: bool,
        loss_tracker: keras.metrics.Metric,
        model: keras.Model | None = None,
        logs: Mapping[str, Any] = MappingProxyType({}),
    ) -> Result:
        """Returns the loss of one step, and updates the running means.

            Σ_examples sample_weight · Σ_terms weight · term / number of examples on all replicas
            + regularizers and `add_loss` / number of replicas

        In evaluation it is the same, if all is evaluated, and otherwise the sum of the students'
        losses on labels, without weights.

        Args:
            outputs: Of the forward pass.
            policy: Scales the terms for the networks that they train.
            training: Whether this is a training step.
            loss_tracker: The running mean of the loss.
            model: Whose regularizers and added losses count; `None`: none do.
            logs: Further values for the logs: (batch,), or scalars.
        """
        as_in_training = training or self.evaluates_all
        weighted = self._weighted(outputs, self.values(outputs, training))
        if training:
            balanced.settle(weighted)
        named = {term.log_name: value for term, value in weighted.items()}
        finite_only, examples = training and policy.skips, outputs.batch.examples
        self._trackers.update({**named, **logs}, examples, finite_only=finite_only)
        terms = [
            (term, policy.scaled(term.trains, value))
            for term, value in weighted.items()
            if _counts(term, as_in_training)
        ]
        each = [(term.weight() if as_in_training else 1.0) * value for term, value in terms]
        per_example = sum(each) + ops.zeros((examples,), "float32")
        additional = 0.0 if model is None else policy.additional_loss(model)
        update(loss_tracker, per_example + additional, finite_only)
        loss = _mean_over_replicas(per_example) + additional / num_replicas()
        return Result(loss, terms)

    def _weighted(self, outputs: Outputs, values: Mapping[Term, Any]) -> dict[Term, Any]:
        """Returns the terms times the sample weights of the student that each belongs to."""
        batches = {id(batch): batch for batch in map(outputs.batch_of, _students(values))}
        if len(batches) < 2:
            batch = next(iter(batches.values()), outputs.batch)
            return by_sample_weight(values, batch.sample_weight, self.outputs_of(batch))
        weighted: dict[Term, Any] = {}
        for student in _students(values):
            own = {term: value for term, value in values.items() if term.student == student}
            batch = outputs.batch_of(student)
            weighted |= by_sample_weight(own, batch.sample_weight, self.outputs_of(batch))
        return {term: weighted[term] for term in values}


def _students(terms: Iterable[Term]) -> list[str | None]:
    """Returns whose terms there are."""
    return list(dict.fromkeys(term.student for term in terms))


def _counts(term: Term, as_in_training: bool) -> bool:
    """Returns whether a term is a part of the loss, in training or of an evaluation on labels."""
    return term.weight is not None if as_in_training else term.student != ENSEMBLE


def _mean_over_replicas(per_example: Any) -> Any:
    """Returns this replica's part of the mean over the examples of all replicas."""
    count = ops.cast(sum_over_replicas(ops.shape(per_example)[0]), "float32")
    return ops.sum(per_example) / ops.maximum(count, 1.0)
