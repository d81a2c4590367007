"""Judging: compares the outputs of two models, and with the labels, by their kind."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from modreduce_keras.labels import class_indices, is_one_hot, is_yes_or_no
from modreduce_keras.output_kind import (
    CLASSES,
    EMBEDDING,
    LABELS,
    LOGIT,
    REGRESSION,
    UNKNOWN,
    output_kind,
)

KINDS = (CLASSES, LOGIT, LABELS, REGRESSION, EMBEDDING)
YES_OR_NO = (LOGIT, LABELS)

_OF_NO_CLASS = (
    "ignore_class= leaves out positions whose label is no class, such as 255; without labels, "
    "x alone, the outputs are compared."
)

Figures: TypeAlias = tuple[Any, Any, Any, Any, Any]
"""What a counter came to: the fields of `Judgement` from `agreement` to `expected_error`."""


class Judgement(NamedTuple):
    """The result of a comparison of two models; see `Verification`."""

    kind: str
    agreement: float
    accuracy: float | None
    expected_accuracy: float | None
    error: float | None
    expected_error: float | None
    largest_difference: float


def compiled_kind(model: keras.Model, shape: tuple[int | None, ...]) -> str | None:
    """Returns the kind of a model's output according to its compiled loss, if the loss tells it."""
    loss = getattr(model, "loss", None) if getattr(model, "compiled", False) else None
    if isinstance(loss, (dict, list, tuple)) and len(loss) == 1:
        (loss,) = loss.values() if isinstance(loss, dict) else loss
    if isinstance(loss, (dict, list, tuple)):
        return None
    kind = output_kind(loss, shape)
    return None if kind == UNKNOWN else kind


def require_kind(kind: str | None, shape: tuple[int | None, ...]) -> str | None:
    """Returns a kind that a user names, as it is for an output of a shape.

    Raises:
        ValueError: If there is no such kind, or the output cannot be of it.
    """
    if kind is None:
        return None
    if kind not in KINDS:
        raise ValueError(f"kind must be None or one of {list(KINDS)}. Received: {kind=}")
    single = len(shape) < 2 or shape[-1] == 1
    if kind == CLASSES and single:
        raise ValueError(
            "kind='classes' needs an output of at least two; one is a 'logit' or a 'regression'. "
            f"Received: {kind=} for output of shape {tuple(shape)}"
        )
    return (LOGIT if single else LABELS) if kind in YES_OR_NO else kind


def kinds_by_labels(labels: np.ndarray | None, shape: tuple[int, ...], owner: str) -> list[str]:
    """Returns the kinds that an output may have according to some labels, the likeliest first.

    One-hot labels may turn out to be independent ones, as soon as a row has several.

    Raises:
        ValueError: If there are no labels and one number, which may be a logit or not.
    """
    single = len(shape) < 2 or shape[-1] == 1
    if labels is None:
        if single:
            raise ValueError(
                f"{owner} cannot tell what one number is without labels: kind='logit' or "
                f"kind='regression' says so. Received: output of shape {shape}"
            )
        return [CLASSES]
    kind = output_kind(None, shape, labels)
    if kind == UNKNOWN:
        return [REGRESSION if single else CLASSES]
    return [CLASSES, LABELS] if labels.shape == shape and kind == CLASSES and not single else [kind]


def answers(kind: str, outputs: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Returns what outputs say: the class (batch, ...), or yes or no (batch, ..., labels)."""
    return outputs.argmax(axis=-1) if kind == CLASSES else outputs > threshold


def truth(
    kind: str, labels: np.ndarray, shape: tuple[int, ...], owner: str, remedy: str = ""
) -> np.ndarray:
    """Returns what labels say, in the same form; `remedy` fixes classes out of range.

    Raises:
        ValueError: If they are not classes, or no answers of yes and no, of the outputs' shape.
    """
    if kind == CLASSES:
        return class_indices(labels, shape, owner, remedy)
    labels = like(labels, shape, owner)
    if not is_yes_or_no(labels):
        raise ValueError(
            f"{owner} needs labels y of 0 and 1 (or -1 and 1) for outputs of yes or no; numbers "
            f"are judged by kind='regression'. Received: y from {labels.min()} to {labels.max()}"
        )
    return labels > 0


def like(labels: np.ndarray, shape: tuple[int, ...], owner: str) -> np.ndarray:
    """Returns labels in the outputs' shape, from which that of one number may lack its axis."""
    single = labels.shape == shape[:-1] and shape[-1] == 1
    if labels.shape != shape and not single:
        raise ValueError(
            f"{owner} needs labels y of the outputs' shape {shape}. Received: y of shape "
            f"{labels.shape}"
        )
    return labels.reshape(shape)


class Judge:
    """Compares the outputs of a model with expected ones, batch by batch.

    Args:
        owner: Who compares, for messages.
        kind: Of the outputs; `None` to tell it by the labels.
        tolerance: Of numbers, in standard deviations of the expected ones, and of directions.
        threshold: Returns where an answer turns from no to yes.
        ignore_class: Label of positions that accuracies leave out. Defaults to `None`.
    """

    def __init__(
        self,
        owner: str,
        kind: str | None,
        tolerance: float,
        threshold: Callable[[], float],
        ignore_class: int | None = None,
    ) -> None:
        self._owner, self._kind, self._ignored = owner, kind, ignore_class
        self._tolerance, self._threshold = tolerance, threshold
        self._by_kind: dict[str, Any] = {}
        self._largest = 0.0

    def add(self, outputs: np.ndarray, expected: np.ndarray, labels: Any) -> None:
        """Compares a batch, of float outputs of equal shape (batch, ..., units)."""
        kept = None
        if labels is not None and self._ignored is not None:
            labels, kept = _without(labels, expected.shape, self._ignored)
        if not self._by_kind:
            shape, owner = expected.shape, self._owner
            kinds = [self._kind] if self._kind else kinds_by_labels(labels, shape, owner)
            self._by_kind = {kind: self._counter(kind) for kind in kinds}
        if len(self._by_kind) > 1 and not is_one_hot(labels) and is_yes_or_no(labels):
            del self._by_kind[CLASSES]
        for counter in self._by_kind.values():
            counter.add(outputs, expected, labels, kept)
        # The maximum of the two would drop a NaN.
        self._largest = float(np.max([self._largest, np.abs(outputs - expected).max()]))

    def _counter(self, kind: str) -> Any:
        if kind != CLASSES and self._ignored is not None:
            raise ValueError(
                "ignore_class is for outputs that are logits of classes, kind='classes'. Received: "
                f"ignore_class={self._ignored} for kind={kind!r}"
            )
        if kind == REGRESSION:
            return _Numbers(self._owner, self._tolerance)
        if kind == EMBEDDING:
            return _Directions(self._tolerance)
        return _Answers(self._owner, kind, self._threshold() if kind in YES_OR_NO else 0.0)

    def judgement(self) -> Judgement:
        """Returns the figures over all batches."""
        kind, counter = next(iter(self._by_kind.items()))
        figures: Figures = counter.figures()
        return Judgement(kind, *figures, self._largest)


def _without(
    labels: np.ndarray, shape: tuple[int, ...], ignore_class: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels with 0 for a class that is ignored, and which are others, (batch, ...)."""
    if labels.shape == shape:
        raise ValueError(
            "ignore_class needs labels y that are class indices, one for each position. Received: "
            f"{ignore_class=} and one-hot labels of shape {shape}"
        )
    labels = labels[..., 0] if labels.shape == (*shape[:-1], 1) else labels
    kept = labels != ignore_class
    return np.where(kept, labels, 0), kept


class _Answers:
    """Counts answers: of classes, or of yes and no."""

    def __init__(self, owner: str, kind: str, threshold: float) -> None:
        self._owner, self._kind, self._threshold = owner, kind, threshold
        self._same: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        self._expected_right: list[np.ndarray] = []

    def add(self, outputs: np.ndarray, expected: np.ndarray, labels: Any, kept: Any) -> None:
        finite = np.isfinite(outputs)
        finite = finite.all(axis=-1) if self._kind == CLASSES else finite
        own = answers(self._kind, outputs, self._threshold)
        others = answers(self._kind, expected, self._threshold)
        self._same.append(((own == others) & finite).ravel())
        if labels is not None:
            right = truth(self._kind, labels, expected.shape, self._owner, _OF_NO_CLASS)
            counted = np.ones_like(finite) if kept is None else kept
            self._right.append(((own == right) & finite)[counted])
            self._expected_right.append((others == right)[counted])

    def figures(self) -> Figures:
        return _mean(self._same), _mean(self._right), _mean(self._expected_right), None, None


class _Numbers:
    """Counts numbers that are close, and how far both are from the labels."""

    def __init__(self, owner: str, tolerance: float) -> None:
        self._owner, self._tolerance = owner, tolerance
        self._off: list[np.ndarray] = []
        self._expected: list[np.ndarray] = []
        self._errors: list[np.ndarray] = []
        self._expected_errors: list[np.ndarray] = []

    def add(self, outputs: np.ndarray, expected: np.ndarray, labels: Any, kept: Any) -> None:
        self._off.append(np.abs(outputs - expected).reshape(-1, expected.shape[-1]))
        self._expected.append(expected.reshape(-1, expected.shape[-1]))
        if labels is not None:
            labels = like(labels, expected.shape, self._owner)
            self._errors.append(np.abs(outputs - labels).ravel())
            self._expected_errors.append(np.abs(expected - labels).ravel())

    def figures(self) -> Figures:
        scale = spread(np.concatenate(self._expected))
        # What is not a number is not close.
        close = (np.concatenate(self._off) <= self._tolerance * scale).all(axis=-1)
        errors = _mean(self._errors), _mean(self._expected_errors)
        return float(close.mean()), None, None, *errors


class _Directions:
    """Counts vectors that point the same way."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._close: list[np.ndarray] = []

    def add(self, outputs: np.ndarray, expected: np.ndarray, labels: Any, kept: Any) -> None:
        own, others = (
            one / np.maximum(np.linalg.norm(one, axis=-1, keepdims=True), 1e-12)
            for one in (outputs.astype("float64"), expected.astype("float64"))
        )
        self._close.append((np.linalg.norm(own - others, axis=-1) <= self._tolerance).ravel())

    def figures(self) -> Figures:
        return _mean(self._close), None, None, None, None


def spread(numbers: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of each column; its root mean square where it is constant."""
    numbers = numbers.astype("float64")
    deviation = numbers.std(axis=0)
    constant = deviation <= 1e-6 * np.abs(numbers).max(axis=0)
    return np.where(constant, np.sqrt((numbers**2).mean(axis=0)), deviation)


def _mean(parts: list[np.ndarray]) -> float | None:
    every = np.concatenate(parts) if parts else np.empty(0)
    return float(every.mean()) if every.size else None
