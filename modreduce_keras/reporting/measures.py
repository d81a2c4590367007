"""Measures: the figures of a report, in NumPy, from the logits of networks and the labels."""

import math
from typing import NamedTuple

import numpy as np

_NORMAL_95 = 1.959963984540054


class Reliability(NamedTuple):
    """How well a network's confidence matches its accuracy, in bins of confidence.

    Attributes:
        counts: Samples in each bin, (bins,); bin b holds confidences in (b/bins, (b + 1)/bins].
        confidence: Their mean confidence, (bins,), NaN where there are none.
        accuracy: The share of them that is right, (bins,), NaN where there are none.
        error: The expected calibration error.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


class Together(NamedTuple):
    """How many samples a teacher and a student get right or wrong, together or alone.

    Attributes:
        both_right: Both are right.
        student_only: The student is right and the teacher wrong.
        teacher_only: The teacher is right and the student wrong.
        same_mistake: Both are wrong, with the same class.
        different_mistakes: Both are wrong, with different classes.
    """

    both_right: int
    student_only: int
    teacher_only: int
    same_mistake: int
    different_mistakes: int


class ConfusionChange(NamedTuple):
    """Two classes that a student confuses more or less than its teacher.

    Attributes:
        truth: Index of the class that the samples have.
        said: Index of the class that they are taken for.
        teacher: How many times the teacher does so.
        student: How many times the student does.
    """

    truth: int
    said: int
    teacher: int
    student: int


class Figures(NamedTuple):
    """The figures of a network: the teacher, a student, or a file made from one.

    Attributes:
        name: What it is called in the report.
        role: `"teacher"`, `"student"` or `"file"`.
        owner: Name of the student that a file was made from, else `None`.
        kind: What its outputs are: `"classes"`, `"logit"`, `"labels"`, `"regression"` or
            `"embedding"`. An answer is a class, or yes or no for each label; numbers and directions
            are none, and have no figures of answers.
        agreement: Share of the samples for which it answers as the teacher does, or `None`. Of
            numbers and directions, within the tolerance.
        owner_agreement: Of a file: the same with its student.
        parameters: Number of weights; `None` of a file.
        multiply_adds: For one sample (`mr.evaluation.multiply_adds`), or `None`.
        size: Of its weights, or of the file, in bytes.
        milliseconds: Median time for one sample, at batch size one.
        accuracy: Share of its answers that are right.
        interval: The 95 % interval of that share: Wilson's score, and of several labels the normal
            interval of the mean over the samples.
        confidence: Mean probability of what it answers.
        calibration: A `Reliability`.
        confusion: How many samples of a class (row) it takes for which (column); the classes of a
            logit, and of all labels together, are no and yes.
        together: A `Together` with the teacher, or `None`.
        changes: The `ConfusionChange`s against the teacher, the largest first.
        error: Of numbers, the mean absolute error.
        determination: Of numbers, the coefficient of determination R², the mean over the outputs;
            `None` where an output of the labels is constant.
    """

    name: str
    role: str
    owner: str | None
    kind: str
    agreement: float | None
    owner_agreement: float | None
    parameters: int | None
    multiply_adds: int | None
    size: int
    milliseconds: float
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    calibration: Reliability | None = None
    confusion: np.ndarray | None = None
    together: Together | None = None
    changes: tuple[ConfusionChange, ...] = ()
    error: float | None = None
    determination: float | None = None


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits, (samples, classes), float64."""
    logits = logits.astype("float64")
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int) -> Reliability:
    """Returns accuracy over confidence, and the expected calibration error.

    ECE = Σ_b n_b / n · |accuracy_b - confidence_b|

    Args:
        confidence: Probability of the class that is said, (samples,).
        correct: Whether it is the right one, (samples,).
        bins: How many bins of equal width there are from 0 to 1.

    Reference:
        Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    # A float32 softmax may sum to a little more than one.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    known = np.where(counts > 0, counts, np.nan)
    mean_confidence = np.bincount(index, confidence, bins) / known
    accuracy = np.bincount(index, correct, bins) / known
    gaps = np.nan_to_num(np.abs(accuracy - mean_confidence))
    return Reliability(
        counts, mean_confidence, accuracy, float((counts * gaps).sum() / counts.sum())
    )


def wilson(share: float, samples: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share.

    Reference:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.
    """
    squared = _NORMAL_95**2 / samples
    middle = share + squared / 2
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / samples + squared / samples / 4)
    return max(0.0, (middle - half) / (1 + squared)), min(1.0, (middle + half) / (1 + squared))


def normal_interval(shares: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of each sample's share, by the normal distribution."""
    half = _NORMAL_95 * float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 1
    mean = float(shares.mean())
    return max(0.0, mean - half), min(1.0, mean + half)


def mean_absolute_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of |output - label| over all samples and outputs."""
    return float(np.abs(outputs.astype("float64") - labels).mean())


def determination(outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """Returns the coefficient of determination, the mean over the outputs.

    R² = 1 - Σ (y - z)² / Σ (y - mean y)²

    It is `None` where the labels of an output are all equal, to within their rounding.
    """
    is_float = np.issubdtype(labels.dtype, np.floating)
    rounding = 4 * np.finfo(labels.dtype).eps if is_float else 0.0
    labels = labels.astype("float64")
    if (np.ptp(labels, axis=0) <= rounding * np.abs(labels).max(axis=0)).any():
        return None
    total = ((labels - labels.mean(axis=0)) ** 2).sum(axis=0)
    left = ((labels - outputs) ** 2).sum(axis=0)
    return float((1 - left / total).mean())


def confusion(labels: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """Returns how many samples of a class (row) are taken for which (column)."""
    pairs = np.bincount(labels * classes + said, minlength=classes**2)
    return pairs.reshape(classes, classes)


def together(labels: np.ndarray, teacher: np.ndarray, student: np.ndarray) -> Together:
    """Returns how many samples the two get right and wrong, from the classes that they say."""
    taught, learnt = teacher == labels, student == labels
    wrong = ~taught & ~learnt
    parts = (
        taught & learnt,
        ~taught & learnt,
        taught & ~learnt,
        wrong & (teacher == student),
        wrong & (teacher != student),
    )
    return Together(*(int(part.sum()) for part in parts))


def confusion_changes(teacher: np.ndarray, student: np.ndarray) -> tuple[ConfusionChange, ...]:
    """Returns the pairs of different classes that are confused more or less, the largest first."""
    difference = student - teacher
    np.fill_diagonal(difference, 0)
    order = np.argsort(-np.abs(difference), axis=None, kind="stable")
    pairs = (np.unravel_index(index, difference.shape) for index in order)
    return tuple(
        ConfusionChange(int(row), int(column), int(teacher[row, column]), int(student[row, column]))
        for row, column in pairs
        if difference[row, column]
    )
