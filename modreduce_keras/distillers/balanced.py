"""Balanced weights: makes terms as large as those on labels, by the first batch of a training."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from keras import ops

from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.distribute import sum_over_replicas
from modreduce_keras.knowledge import Knowledge
from modreduce_keras.knowledge.weight import MOST


def settle(values: Mapping[Term, Any]) -> None:
    """Sets the balanced weights that have no value yet, in a training step or for a look at one.

        weight = Σ weight · |mean of a term on labels| / |mean of the balanced term|

    The means are over the examples of all replicas, and the sum is over the student's terms on
    labels; without any, over its knowledge whose weights are given. Factors that multiply all
    terms of a student, as in ModReduce, cancel.

    Args:
        values: The values of each term times the sample weights, (batch,).
    """
    balanced = _balanced(values)
    if not balanced:
        return
    terms = [term for term in values if term.weight is not None]
    sums = sum_over_replicas(ops.stop_gradient(ops.stack([ops.sum(values[t]) for t in terms])))
    sizes = dict(zip(terms, ops.unstack(ops.abs(sums), len(terms)), strict=True))
    for term in balanced:
        wanted = sum(one.unscaled() * sizes[one] for one in _measure(term, terms))
        term.knowledge.settle_weight(wanted / sizes[term])


def require_measure(terms: Iterable[Term], knowledge: Iterable[Knowledge]) -> None:
    """Raises if there is nothing that the term of a balanced weight could be as large as.

    Args:
        terms: The terms of the loss.
        knowledge: What the students learn in `fit`.
    """
    terms = list(terms)
    known = [term.knowledge for term in terms]
    lost = [one.name for one in knowledge if one.is_balanced and one not in known]
    if lost:
        raise ValueError(
            "weight='balanced' needs a term that says whose it is: make it in build_terms by "
            f"offline_terms(), or as Term(..., knowledge=...). Received: none for {lost}"
        )
    without = [term.log_name for term in _balanced(terms) if not _measure(term, terms)]
    if without:
        raise ValueError(
            "weight='balanced' makes a term as large as the terms on labels, or without those as "
            "the student's knowledge with given weights, and there are neither. Compile with a "
            "loss, or give one weight as a number (weight=1.0). "
            f"Received: loss=None and weight='balanced' of {without}"
        )


def require_set(terms: Iterable[Term]) -> None:
    """Raises if a balanced weight has no value yet, before an evaluation that needs it."""
    names = _unset(terms)
    if names:
        raise ValueError(
            f"weight='balanced' of {names} has no value yet, and the loss of this evaluation needs "
            "it: the first training step sets it, or load weights that have it. "
            "compile(evaluate_knowledge=False) evaluates the loss on labels alone."
        )


def warn_of_unset(terms: Iterable[Term]) -> None:
    """Warns of balanced weights that a whole training has not set."""
    names = _unset(terms)
    if names:
        warnings.warn(
            f"weight='balanced' of {names} was not set, and the term did not count: on no batch "
            f"was it finite, above 0, and at least 1/{MOST:.0f} of what it is compared with. Give "
            "a number, or look at distiller.balance((x, y)).",
            stacklevel=stacklevel_of_user(),
        )


def _balanced(terms: Iterable[Term]) -> list[Any]:
    return [term for term in terms if term.knowledge is not None and term.knowledge.is_balanced]


def _unset(terms: Iterable[Term]) -> list[str]:
    return [term.log_name for term in _balanced(terms) if term.knowledge.has_no_weight]


def _measure(term: Term, terms: Iterable[Term]) -> list[Any]:
    """Returns the terms that a balanced one becomes as large as, all together."""
    alike = [one for one in terms if one.student == term.student and one.weight is not None]
    labels = [one for one in alike if one.on_labels]
    given = [one for one in alike if one.knowledge is not None and not one.knowledge.is_balanced]
    return labels or given
