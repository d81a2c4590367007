"""Labels of a knowledge: of which output they are, and which of them are no class."""

from collections.abc import Mapping
from typing import Any

import keras

from modreduce_keras.arguments import is_number
from modreduce_keras.losses.base import Loss


def checked_class(ignore_class: Any, loss: Loss) -> int | None:
    """Returns `ignore_class` as it was given, as an integer.

    Raises:
        ValueError: If it is not an integer, or nothing that the loss can leave out.
    """
    if ignore_class is None:
        return None
    if not (is_number(ignore_class) and ignore_class == int(ignore_class)):
        raise ValueError(
            f"ignore_class must be an integer label or None. Received: {ignore_class=}"
        )
    if loss.label_numbers:
        raise ValueError(
            f"{type(loss).__name__} has labels that are numbers, and no class among them to "
            f"leave out. Received: {ignore_class=}"
        )
    if loss.takes_foreground:
        raise ValueError(
            f"{type(loss).__name__} leaves no positions out: its mask= tells the foreground. "
            f"Received: {ignore_class=}"
        )
    return int(ignore_class)


def checked_output(labels: Any, loss: Loss, ignore_class: int | None) -> str | None:
    """Returns the name of the output whose labels are taken, as it was given.

    Raises:
        ValueError: If it is not a name, or no labels are taken.
    """
    if labels is None:
        return None
    if not isinstance(labels, str):
        raise ValueError(
            "labels must be the name of an output, whose labels the knowledge takes, or None. "
            f"Received: {labels=}"
        )
    if not loss.needs_labels and ignore_class is None:
        raise ValueError(
            f"labels= would do nothing: {loss.name!r} takes no labels, and without ignore_class= "
            f"none are left out. Received: {labels=}"
        )
    return labels


def of_output(owner: str, named: str | None, tap: Any, labels: Any) -> Any:
    """Returns the labels that a knowledge takes, of those of a batch, or `None`.

    Args:
        owner: Name of the knowledge.
        named: The output whose labels it was told to take, or `None`.
        tap: What it reads of the student.
        labels: The labels of the batch: a dict by output, where the student has several.

    Raises:
        ValueError: If an output was named, and the labels are not by name.
    """
    if not isinstance(labels, Mapping):
        if named is not None and labels is not None:
            raise ValueError(
                f"Knowledge {owner!r} takes the labels of the output {named!r}, so y must be a "
                f"dict by output. Received: y of the type {type(labels).__name__}"
            )
        return labels
    name = tap if named is None else named
    return labels.get(name) if isinstance(name, str) else None


def symbolic(loss: Loss, shape: tuple, by_position: bool) -> keras.KerasTensor:
    """Returns symbolic labels as they fit what a knowledge reads.

    Args:
        loss: Its loss.
        shape: Of the student's feature, (batch, positions..., channels).
        by_position: Whether there is a label for each position, and not for each sample.
    """
    if loss.label_numbers:
        return keras.KerasTensor(shape, "float32")
    return keras.KerasTensor(shape[:-1] if by_position else shape[:1], "int64")


def require_ignored(knowledge: Any, ignored: int, classes: int, on_maps: bool) -> None:
    """Raises if a knowledge takes labels for classes that the compiled loss leaves out.

    A class may be left out by the knowledge alone, such as the background.

    Args:
        knowledge: The knowledge.
        ignored: The `ignore_class` of the compiled loss.
        classes: The number of classes.
        on_maps: Whether the outputs are maps of images.

    Raises:
        ValueError: If it does, or leaves out another label that is not a class.
    """
    loss, own = knowledge.loss, knowledge.ignore_class
    by_position = loss.label_maps or (on_maps and not loss.label_numbers)
    known = range(getattr(loss, "num_classes", None) or classes)
    is_read = loss.needs_labels and by_position and knowledge.mask in (None, False)
    is_other = own is not None and own not in range(classes)
    if own == ignored or not (is_other or (is_read and ignored not in known)):
        return
    kind, tap = type(knowledge).__name__, knowledge.student
    at = f", at={tap!r}" if tap is not None and tap == knowledge.teacher else ""
    at += "" if knowledge.labels is None else f", labels={knowledge.labels!r}"
    raise ValueError(
        f"Knowledge {knowledge.name!r} must leave out the labels that the compiled loss leaves "
        f"out: mr.{kind}({loss.name!r}{at}, ignore_class={ignored}). Received: "
        f"ignore_class={own} beside a loss with ignore_class={ignored}"
    )
