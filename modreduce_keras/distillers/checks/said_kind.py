"""The kind of the outputs as given by the user, if the compiled loss does not tell it."""

from typing import Any, NamedTuple

from keras import ops

from modreduce_keras.distillers.checks import kind_checks
from modreduce_keras.labels import rows_are_one_hot
from modreduce_keras.output_kind import CLASSES, EMBEDDING, LABELS, LOGIT, REGRESSION, UNKNOWN

SAID = {
    "classes": (CLASSES,),
    "labels": (LABELS, LOGIT),
    "regression": (REGRESSION, EMBEDDING),
}
"""What may be said, and the kinds of the losses that agree with it."""


class _Takes(NamedTuple):
    """What takes outputs of some kinds, as `fitting` looks at it."""

    output_kinds: tuple[str, ...]


def resolved(said: str | None, of_loss: str) -> str:
    """Returns the kind of the outputs, by what the user says and what the loss does."""
    if said is None or of_loss in SAID[said]:
        return of_loss
    return SAID[said][0]


def parts(owner: str, said: str | None, of_loss: str) -> list[kind_checks.Part]:
    """Returns what has to suit the compiled loss and the labels.

    Args:
        owner: Name of the distiller's class.
        said: The kind given by the user, or `None`. Outputs of unknown kind are classes.
        of_loss: The kind by the compiled loss.
    """
    if said is None and of_loss != UNKNOWN:
        return []  # what the loss says is what is compared
    calls = {kind: _call(owner, name) for name, kinds in SAID.items() for kind in kinds}
    return [kind_checks.Part(owner, _Takes(SAID[said or "classes"]), None, calls)]


def label_checks(
    owner: str, said: str | None, of_loss: str, units: int
) -> list[kind_checks.LabelCheck]:
    """Returns what the labels must not be beside the loss of a regression: classes.

    Args:
        owner: Name of the distiller's class.
        said: What the user says, or `None`.
        of_loss: The kind by the compiled loss.
        units: The number of outputs.
    """
    if said is not None or of_loss != REGRESSION or units == 1:
        return []
    message = (
        f"{owner} must have labels of plain numbers beside the loss of a regression, whose outputs "
        f"it compares as they are: classes that are one-hot take {_call(owner, 'classes')}, and "
        f"numbers that look like them {_call(owner, 'regression')}."
    )
    return [kind_checks.LabelCheck(None, message, _are_not_all_one_hot)]


def _call(owner: str, said: str) -> str:
    return f"mr.{owner}(model, ..., kind={said!r})"


def _are_not_all_one_hot(rows: Any) -> Any:
    """Returns whether some row of labels is not one-hot, for each row alike."""
    one_hot = rows_are_one_hot(rows)
    return ops.broadcast_to(ops.logical_not(ops.all(one_hot)), ops.shape(one_hot))
