"""Checks that the parts that compare outputs suit their kind, known from the loss or the labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from keras import ops

from modreduce_keras.knowledge import Knowledge
from modreduce_keras.labels import are_distributions, checked_rows
from modreduce_keras.output_kind import CLASSES, EMBEDDING, LABELS, LOGIT, REGRESSION, UNKNOWN

WHAT = {
    CLASSES: "classes that exclude one another",
    LOGIT: "one logit of yes or no",
    LABELS: "independent labels",
    REGRESSION: "plain numbers",
    EMBEDDING: "directions",
}
_COMPARED_BY = {CLASSES: "kd", LOGIT: "binary_kd", LABELS: "binary_kd"}
_OF_NUMBERS = "logit_mse"


class Part(NamedTuple):
    """Something that compares, or merges, outputs.

    Attributes:
        owner: What it is called in messages.
        does: The knowledge, the loss or the aggregator: what has `output_kinds`.
        output: Name of the output that it reads; `None` where there is one.
        remedy: What the user writes instead, with a place for a loss's identifier; or the whole
            call by the kind of the outputs.
        of_numbers: The same for plain numbers, if another.
        by_default: Whether it was chosen for a user who gave none.
    """

    owner: str
    does: Any
    output: str | None
    remedy: str | Mapping[str, str]
    of_numbers: str | None = None
    by_default: bool = False

    def call_for(self, kind: str) -> str:
        """Returns what the user writes for outputs of a kind."""
        if isinstance(self.remedy, Mapping):
            return self.remedy[kind]
        if kind in _COMPARED_BY:
            return self.remedy.format(repr(_COMPARED_BY[kind]))
        return self.of_numbers or self.remedy.format(repr(_OF_NUMBERS))


class LabelCheck(NamedTuple):
    """What labels have to be so that a part fits.

    Attributes:
        output: The output that they are of, or `None` where there is one.
        message: What is wrong, if they are not.
        fits: Returns which rows fit, (batch, ...), of labels (batch, ..., units), float32.
    """

    output: str | None
    message: str
    fits: Callable[[Any], Any]


def parts_of(knowledge: Mapping[str, list[Knowledge]]) -> list[Part]:
    """Returns the knowledge of every student, as parts that compare outputs."""
    return [
        Part(
            f"Knowledge {one.name!r}",
            one,
            one.student if isinstance(one.student, str) else None,
            "mr.Response({})",
            by_default=one.by_default,
        )
        for several in knowledge.values()
        for one in several
    ]


def online_parts(aggregator: Any, online_loss: Any, by_default: bool) -> list[Part]:
    """Returns an aggregator and an online loss, which may be the default, as parts."""
    remedy = "online_loss={} with aggregator='mean' or 'mutual'"
    owner = f"online_loss={_identifier(online_loss)!r}"
    return [
        Part(f"The aggregator {_identifier(aggregator)!r}", aggregator, None, remedy),
        Part(owner, online_loss, None, "online_loss={}", by_default=by_default),
    ]


def _identifier(part: Any) -> str:
    # What a user has not registered has none.
    return getattr(part, "identifier", type(part).__name__)


def require_fitting(
    parts: list[Part], kinds: Mapping[str | None, str], loss: Any
) -> list[LabelCheck]:
    """Raises if parts take outputs for something other than what the compiled loss says they are.

    A regression's loss, and one of the user's own, may train classes or labels too. What those are
    is then for the labels to say.

    Args:
        parts: What compares outputs.
        kinds: Kind of each output by its name; of one output under the name `None`.
        loss: What was compiled, for the message.

    Returns:
        What the labels have to be.
    """
    checks = []
    for part in parts:
        # A student with one output has it under no name, and its taps may be that output.
        kind = kinds.get(part.output, kinds.get(None, UNKNOWN))
        taken = part.does.output_kinds
        if taken is None or kind in taken:
            continue
        found = _what_labels_say(part, kind, loss)
        if found is None and kind != UNKNOWN:
            raise ValueError(
                f"{part.owner} takes the outputs for {_told(taken)}, and to the compiled loss they "
                f"are {WHAT[kind]}: {part.call_for(kind)} takes those. "
                f"Received: loss={_named(loss)}"
            )
        if found is not None:
            output = part.output if part.output in kinds else None
            checks.append(LabelCheck(output, *found))
    return checks


def _what_labels_say(part: Part, kind: str, loss: Any) -> tuple[str, Callable[[Any], Any]] | None:
    """Returns how labels show whether a part fits: the error, and what must hold for them."""
    taken = part.does.output_kinds
    must = f"must have labels of {_told(taken)}"
    if kind in (REGRESSION, UNKNOWN) and part.by_default and CLASSES not in taken:
        # Numbers that a user has scaled to lie from 0 to 1 look like shares.
        return (
            f"{part.owner}, the default for one output, {must} beside the loss {_named(loss)}: "
            f"plain numbers take {part.call_for(REGRESSION)}, and shares from 0 to 1 "
            f"{part.call_for(LOGIT)}.",
            _are_yes_or_no,
        )
    if kind == REGRESSION:
        return (
            f"{part.owner} {must} beside the loss {_named(loss)}: plain numbers take "
            f"{part.call_for(REGRESSION)}.",
            are_distributions if CLASSES in taken else _are_shares,
        )
    if kind == UNKNOWN and CLASSES in taken:
        return (
            f"{part.owner} {must}: labels that are several hot take {part.call_for(LABELS)}.",
            _are_not_several_hot,
        )
    return None


def _told(kinds: Sequence[str]) -> str:
    return " or ".join(WHAT[one] for one in kinds)


def checked_labels(checks: list[LabelCheck], labels: Any, outputs: Any) -> Any:
    """Returns labels, after a check where only they say what the outputs are.

    Args:
        checks: What `require_fitting` returned.
        labels: Of a batch, or of all samples: an array, or a dict by output. Those of one unit
            may come without its axis.
        outputs: The students' symbolic output, or a dict of them.

    Returns:
        The labels; as floats, and NaN in rows that do not fit, where XLA leaves checks out.

    Raises:
        ValueError: Outside of a graph, if they do not fit.
        tf.errors.InvalidArgumentError: In a graph of TensorFlow.
    """
    for check in checks:
        by_name = check.output is not None
        if by_name and not isinstance(labels, Mapping):
            continue
        if not by_name and isinstance(outputs, Mapping):
            continue  # of an inner layer, which has no labels of its own
        own = labels.get(check.output) if by_name else labels
        shape = tuple((outputs[check.output] if by_name else outputs).shape)
        given = tuple(getattr(own, "shape", ()))
        without_axis = shape[-1] == 1 and len(given) == len(shape) - 1
        if not without_axis and (len(given) != len(shape) or given[-1] != shape[-1]):
            continue
        rows = ops.cast(own, "float32")
        rows = ops.expand_dims(rows, -1) if without_axis else rows
        fits = check.fits(rows)
        fitting = ops.where(ops.expand_dims(fits, -1), rows, math.nan)
        own = checked_rows(fits, rows, check.message, ops.reshape(fitting, ops.shape(own)))
        labels = {**labels, check.output: own} if by_name else own
    return labels


def _are_shares(rows: Any) -> Any:
    """Returns which rows lie from 0 to 1, or are -1 and 1 as hinge losses take them."""
    within = ops.logical_and(ops.min(rows, axis=-1) >= 0, ops.max(rows, axis=-1) <= 1)
    return ops.logical_or(within, _are_signs(rows))


def _are_signs(rows: Any) -> Any:
    return ops.all(ops.abs(rows) == 1, axis=-1)


def _are_binary(rows: Any) -> Any:
    return ops.all(ops.logical_or(rows == 0, rows == 1), axis=-1)


def _are_yes_or_no(rows: Any) -> Any:
    """Returns which rows are of zeros and ones, or of -1 and 1."""
    return ops.logical_or(_are_binary(rows), _are_signs(rows))


def _are_not_several_hot(rows: Any) -> Any:
    """Returns which rows are not of zeros and ones with another number of ones than one.

    Rows of other numbers may be what a loss of the user's own takes: a teacher's logits.
    """
    return ops.logical_or(ops.logical_not(_are_binary(rows)), ops.sum(rows, axis=-1) == 1)


def _named(loss: Any) -> str:
    by_output = isinstance(loss, Mapping)
    names = {output: _named(one) for output, one in loss.items()} if by_output else None
    return repr(names or getattr(loss, "name", None) or getattr(loss, "__name__", loss))
