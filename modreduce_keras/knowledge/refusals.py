"""Refusals: what the parts of a knowledge cannot be together, said when it is made."""

from collections.abc import Mapping, Sequence
from typing import Any

from modreduce_keras import calls
from modreduce_keras.knowledge.weight import BALANCED
from modreduce_keras.losses.attention_base import AttentionLoss
from modreduce_keras.losses.base import Loss
from modreduce_keras.models import attention


def require_no_arguments_of(loss: Loss, given: Mapping[str, Any], owner: str) -> None:
    """Raises if arguments of a loss were given to its knowledge.

    Args:
        loss: The loss.
        given: What the knowledge was given beside its own arguments.
        owner: Name of the knowledge's class.
    """
    named = {name: loss.argument_named(name) for name in given}
    meant = {name: argument for name, argument in named.items() if argument is not None}
    if meant:
        written = ", ".join(f"{a}={calls.shown(given[name])}" for name, a in meant.items())
        raise ValueError(
            f"{', '.join(meant)} must be given to the loss and not to {owner}: "
            f"mr.{owner}(mr.losses.{type(loss).__name__}({written})). "
            f"Received: { {name: given[name] for name in meant} }"
        )


def require_taps(owner: str, at: Any, student: Any, teacher: Any) -> None:
    """Raises unless taps of both models were given, together or each.

    Args:
        owner: Name of the knowledge's class.
        at: The tap of both.
        student: The student's.
        teacher: The teacher's.
    """
    both, neither = student and teacher, student is None and teacher is None
    if not (both and at is None) and not (at and neither):
        raise ValueError(
            f"{owner} needs the taps it reads: either at='stage2' for both "
            "models or student='stage2', teacher='stage3'. "
            f"Received: at={at!r}, student={student!r}, teacher={teacher!r}"
        )


def require_attention(loss: Loss, adapter: Any, taps: Sequence[Any]) -> None:
    """Raises if attention maps are read in a way that the loss cannot compare.

    Args:
        loss: The loss.
        adapter: The adapter, or `None`.
        taps: The taps of both models.
    """
    if adapter is not None and isinstance(loss, AttentionLoss):
        raise ValueError(
            f"{type(loss).__name__} compares attention maps as they are, and no adapter "
            f"passes their masks on: adapter=None. Received: {adapter.identifier!r}"
        )
    scores = [one for one in taps if str(one).rpartition("/")[2].startswith(attention.SCORES)]
    if scores and not loss.takes_scores:
        meant = str(scores[0]).replace(attention.SCORES, attention.LOGITS)
        raise ValueError(
            f"{type(loss).__name__} takes the softmax of attention maps itself, so it "
            f"reads their logits: {meant!r}. Received: the probabilities {scores[0]!r}"
        )


def require_stage(knowledge: Any, weight: Any, *, adapter_pretrains: bool) -> None:
    """Raises if a knowledge cannot be trained in a separate stage.

    Args:
        knowledge: The knowledge, which is staged.
        weight: The weight that it was given.
        adapter_pretrains: Whether its adapter has a separate stage.
    """
    if adapter_pretrains:
        raise ValueError(
            f"The adapter {knowledge.adapter.identifier!r} has a stage of its own before "
            "training, so its loss cannot have one too. Received: staged=True"
        )
    if knowledge.is_balanced:
        raise ValueError(
            f"weight={BALANCED!r} compares with the terms of fit, and {knowledge.loss.name!r} is "
            "trained in a stage of its own: give a number, or staged=False. "
            f"Received: weight={weight!r} of a staged knowledge"
        )
    if not isinstance(weight, (int, float, type(None))):
        raise ValueError(
            "A stage of its own is trained with one weight, because schedules follow the steps "
            f"of fit. Received: weight={weight!r} of a staged knowledge"
        )
