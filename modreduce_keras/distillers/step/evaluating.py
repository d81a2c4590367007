"""What evaluation computes: the compiled loss alone, or every term of the training loss."""

import warnings
from typing import Any

from modreduce_keras.arguments import require_bool
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.distillers.step.objective import Objective


def evaluates_knowledge(given: bool | None, supervision: Any) -> bool:
    """Returns whether evaluation computes the terms of the training loss.

    Args:
        given: What `compile(evaluate_knowledge=)` was given.
        supervision: The compiled loss; without one, only the other terms make a loss.
    """
    return supervision is None if given is None else require_bool("evaluate_knowledge", given)


def require_evaluable(objective: Objective) -> None:
    """Raises if evaluation was asked for terms, and none of them can be computed in it."""
    terms = [term for term in objective.terms if not term.on_labels and term.weight is not None]
    if all(term.training_only for term in terms):
        names = [term.log_name for term in terms]
        raise ValueError(
            "compile(evaluate_knowledge=True) needs a term that can be computed on data other than "
            "the training data: leave it out, and evaluation computes the compiled loss. "
            f"Received: {_described(names) if names else 'no term but the compiled loss'}"
        )


def warn_of_left_out(objective: Objective) -> None:
    """Warns of terms of the training loss that the loss of an evaluation is without."""
    names = [t.log_name for t in objective.terms if t.training_only and t.weight is not None]
    if objective.evaluates_all and names:
        warnings.warn(
            f"The loss of evaluation and validation (val_loss) is without {_described(names)}. "
            "Adapters without an index, such as adapter='contrastive_queue' instead of "
            "'contrastive_memory', are evaluated.",
            stacklevel=stacklevel_of_user(),
        )


def _described(names: list[str]) -> str:
    return f"{names}, which {'needs' if len(names) == 1 else 'need'} the training data's own index"
