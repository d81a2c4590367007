"""Labels: what they are, as class indices, and whether they are classes at all."""

import math
from typing import Any

import numpy as np
from keras import ops

from modreduce_keras.distribute import checked_in_graph, known

_ROUNDING = 1e-3
_ONE_HOT_NEEDED = (
    "must have labels that are class indices or one-hot: of mixed, smoothed or several-hot rows it "
    "is not defined. Without labels do mr.Response('kd') of a teacher, "
    "mr.Response('confidence_penalty') without one, and aggregator='mutual' of peers."
)
_CLASSES_NEEDED = (
    "needs labels that are class indices or one-hot. Of mixed or smoothed labels give the class "
    "that is meant: y.argmax(axis=-1)."
)
_UNLABELLED = (
    " Samples without a label have -1 where ignore_class=-1 says so: that of keras.losses."
    "SparseCategoricalCrossentropy, and of mr.Response."
)
_DISTRIBUTION_NEEDED = (
    "must have labels that are class indices, or rows that are probabilities of classes, not "
    "negative and of sum one."
)


def in_range(labels: Any, classes: int, owner: str) -> tuple[Any, Any]:
    """Returns labels that may index classes, and which of them were in range.

    Args:
        labels: Class indices, (batch, ...), int.
        classes: The number of classes.
        owner: Who needs them, for the message.

    Returns:
        The labels, zero where they were out of range; and (batch, ...), bool, or `None` where all
        are known to be in range. In a graph the values are not known, and a check would make the
        device wait: there the caller makes a NaN of what is out of range.

    Raises:
        ValueError: If the values are known, and one is out of range.
    """
    values = known(labels)
    if values is None:
        valid = ops.logical_and(labels >= 0, labels < classes)
        return ops.where(valid, labels, 0), valid
    require_in_range(values, classes, owner)
    return labels, None


def rows_are_one_hot(labels: Any) -> Any:
    """Returns whether each row of a tensor of labels is one-hot, (batch, ...)."""
    return ops.logical_and(ops.max(labels, axis=-1) == 1, ops.sum(ops.abs(labels), axis=-1) == 1)


def classes_of_one_hot(labels: Any, owner: str, kept: Any = None) -> Any:
    """Returns the class of each row of one-hot labels, which no other row has.

    The check is an error in the step on TensorFlow. Where checks are left out (by XLA), the class
    of another row is -1, which `in_range` finds.

    Args:
        labels: (batch, ..., classes).
        owner: Who needs them, for the message.
        kept: The positions that count, (batch, ...), bool, or `None`.

    Returns:
        (batch, ...), int32.

    Raises:
        ValueError: Outside of a graph, if a row that counts is not one-hot.
        tf.errors.InvalidArgumentError: In a graph of TensorFlow.
    """
    labels = ops.cast(labels, "float32")
    fits = rows_are_one_hot(labels)
    classes = ops.where(fits, ops.cast(ops.argmax(labels, axis=-1), "int32"), -1)
    counted = fits if kept is None else ops.logical_or(fits, ops.logical_not(kept))
    return checked_rows(counted, labels, f"{owner} {_ONE_HOT_NEEDED}", classes)


def distributions(labels: Any, owner: str) -> Any:
    """Returns labels of classes as one distribution for each row: one-hot, smoothed or mixed.

    Args:
        labels: (batch, ..., classes).
        owner: Who needs them, for the message.

    Returns:
        (batch, ..., classes), float32; NaN where a row is none and checks are left out.

    Raises:
        ValueError: Outside of a graph, if a row is negative somewhere or does not sum to one.
        tf.errors.InvalidArgumentError: In a graph of TensorFlow.
    """
    labels = ops.cast(labels, "float32")
    fits = are_distributions(labels)
    checked = ops.where(ops.expand_dims(fits, -1), labels, math.nan)
    return checked_rows(fits, labels, f"{owner} {_DISTRIBUTION_NEEDED}", checked)


def require_one_hot(values: np.ndarray, owner: str) -> None:
    """Raises unless each row of labels is one-hot."""
    require_rows(values, owner, _ONE_HOT_NEEDED, is_one_hot)


def require_distributions(values: np.ndarray, owner: str) -> None:
    """Raises unless each row of labels is one-hot or another distribution."""
    require_rows(values, owner, _DISTRIBUTION_NEEDED, is_distribution)


def require_rows(values: np.ndarray, owner: str, needed: str, fits: Any) -> None:
    """Raises with the first row of labels that does not fit; `fits` looks at several rows."""
    rows = values.reshape(-1, values.shape[-1])
    if not fits(rows):
        wrong = next(row for row in rows if not fits(row[None]))
        raise ValueError(f"{owner} {needed} Received: {_row(wrong)}")


def _row(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:8].tolist())
    return f"a row [{shown}{', ...' if len(values) > 8 else ''}]"


def checked_rows(fits: Any, labels: Any, message: str, result: Any) -> Any:
    """Returns a result after a check that all rows of labels fit.

    Args:
        fits: Which do, (batch, ...), bool.
        labels: (batch, ..., classes), float32.
        message: What is wrong if one does not: "NAME must have labels ...".
        result: What to return.

    Raises:
        ValueError: Outside of a graph, if one does not.
        tf.errors.InvalidArgumentError: In a graph of TensorFlow, unless XLA leaves checks out.
    """
    values = known(fits)
    if values is None:
        return checked_in_graph(fits, labels, message, result)
    if not values.all():
        raise ValueError(f"{message} Received: {_row(np.asarray(known(labels))[~values][0])}")
    return result


def is_yes_or_no(labels: np.ndarray) -> bool:
    """Returns whether labels are 0 and 1, or as hinge losses take them -1 and 1."""
    return bool(np.isin(labels, (0, 1)).all() or np.isin(labels, (-1, 1)).all())


def are_distributions(rows: Any, by: Any = ops) -> Any:
    """Returns which rows, along the last axis, are one-hot or other distributions of classes.

    Args:
        rows: (batch, ..., classes), floats.
        by: What computes it: `keras.ops`, or NumPy for arrays of it.

    Returns:
        (batch, ...), bool.
    """
    off = by.abs(by.sum(rows, axis=-1) - 1.0)
    return by.logical_and(by.min(rows, axis=-1) >= 0, off <= _ROUNDING)


def is_distribution(labels: np.ndarray) -> bool:
    """Returns whether each row, along the last axis, is one-hot or another distribution."""
    return bool(are_distributions(labels.astype("float64"), np).all())


def is_one_hot(labels: np.ndarray) -> bool:
    """Returns whether each row, along the last axis, is one-hot."""
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=-1) == 1).all())


def class_indices(
    labels: np.ndarray, shape: tuple[int, ...], owner: str, remedy: str = ""
) -> np.ndarray:
    """Returns labels, whose values are known, as class indices.

    Args:
        labels: Class indices (batch, ...) or (batch, ..., 1), or one-hot (batch, ..., classes).
        shape: Of the logits, (batch, ..., classes).
        owner: Who needs them, for the message.
        remedy: What mends labels out of range, for the message.

    Returns:
        (batch, ...), int.

    Raises:
        ValueError: If they have another shape, one is out of range, or a row is not one-hot.
    """
    if labels.dtype.kind not in "iufb":
        raise ValueError(
            f"{owner} needs labels that are numbers, class indices or one-hot; names of classes "
            "become indices with np.unique(y, return_inverse=True)[1]. Received: labels of dtype "
            f"{labels.dtype}"
        )
    if labels.shape == shape:
        require_rows(labels, owner, _CLASSES_NEEDED, is_one_hot)
        return labels.argmax(axis=-1)
    if labels.shape == (*shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != shape[:-1]:
        raise ValueError(
            f"{owner} needs labels that are classes {shape[:-1]} or one-hot {shape}, as the "
            f"logits are. Received: labels of shape {labels.shape}"
        )
    require_in_range(labels, shape[-1], owner, remedy=remedy)
    return labels.astype("int64")


def require_in_range(
    values: np.ndarray, classes: int, owner: str, ignored: Any = (), remedy: str = ""
) -> None:
    """Raises unless every label is a class index, or one of those that are ignored."""
    wrong = ~((values >= 0) & (values < classes) & (values == np.floor(values)))
    for label in ignored:
        wrong &= values != label
    if wrong.any():
        besides = f" (and {sorted(ignored)}, which are ignored)" if ignored else ""
        found = sorted({value.item() for value in values[wrong]})
        unlabelled = _UNLABELLED if found == [-1] and not ignored else ""
        remedy = f" {remedy}" if remedy else unlabelled
        raise ValueError(
            f"{owner} needs labels y that are class indices from 0 to {classes - 1}{besides}."
            f"{remedy} Received: y with {found[:8]}"
        )


def map_at(labels: Any, shape: Any, owner: str, kept: Any = None) -> Any:
    """Returns a map of labels at the size of feature maps: the label in the middle of a position.

    Args:
        labels: Class indices (batch, positions...) of any size, with a last axis of one, or
            one-hot. Where no middle is, and where `kept` is not, one-hot rows may be anything.
        shape: Of the feature maps, (batch, positions..., channels).
        owner: Who needs them, for the message.
        kept: The positions of the feature maps that count, (batch, ...), bool, or `None`; where
            they do not, the label is 0.

    Returns:
        (batch, positions...), of the dtype of the labels; int32 of one-hot ones.

    Raises:
        ValueError: If the labels are no map, or a size is not known.
    """
    labels = ops.convert_to_tensor(labels)
    one_hot = len(labels.shape) == len(shape) and labels.shape[-1] != 1
    if len(labels.shape) == len(shape) and not one_hot:
        labels = ops.squeeze(labels, -1)
    pairs = list(zip(labels.shape[1:], shape[1:-1], strict=False))
    alike = all(size == other for size, other in pairs)
    fitting = len(labels.shape) == len(shape) - (0 if one_hot else 1)
    if not fitting or not (alike or all(None not in p for p in pairs)):
        raise ValueError(
            f"{owner} needs labels y that are maps of classes, (batch, "
            f"{', '.join(['height, width'] if len(shape) == 4 else ['positions...'])}), for "
            f"features of shape {tuple(shape)}, both of known size. Received: labels of shape "
            f"{tuple(labels.shape)}"
        )
    for axis, (size, target) in enumerate(pairs, start=1):
        if size != target:
            middle = [(2 * place + 1) * size // (2 * target) for place in range(target)]
            labels = ops.take(labels, middle, axis=axis)
    for _ in range(0 if kept is None else len(shape) - 1 - len(kept.shape)):
        kept = ops.expand_dims(kept, -1)
    labels = classes_of_one_hot(labels, owner, kept) if one_hot else labels
    return labels if kept is None else ops.where(kept, labels, ops.zeros_like(labels))
