"""Metrics of how far the members of a group, or a student and its teacher, go together."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from modreduce_keras.arguments import require_choice
from modreduce_keras.keras_internals import set_direction
from modreduce_keras.output_kind import CLASSES, LABELS
from modreduce_keras.registry import register
from modreduce_keras.typing import Tensor

KINDS = (CLASSES, LABELS)


def same_answer(first: Tensor, second: Tensor, kind: str = CLASSES) -> Tensor:
    """Returns 1 where two models answer the same, else 0.

    Args:
        first: Logits, (batch, ..., units).
        second: The same shape.
        kind: `"classes"`: an answer is the class with the largest logit, the first of several equal
            ones. `"labels"`: yes or no for each of independent labels, or for one logit, yes above
            0; the share of the labels counts.

    Returns:
        (batch, ...), float32.

    Raises:
        ValueError: If the shapes differ, or there are fewer than two classes.
    """
    first, second = ops.convert_to_tensor(first), ops.convert_to_tensor(second)
    fits = len(first.shape) == len(second.shape) and first.shape[-1] == second.shape[-1]
    least = 2 if kind == CLASSES else 1
    if not fits or len(first.shape) < 2 or first.shape[-1] < least:
        raise ValueError(
            "The top classes of two models are compared, so both need logits (batch, ..., classes) "
            f"of equal shape with at least two classes. Received: shapes {tuple(first.shape)} and "
            f"{tuple(second.shape)} with {kind=}; one logit, or independent labels, take "
            "kind='labels'"
        )
    return agreement_of(answers(first, kind), answers(second, kind), kind)


def answers(logits: Tensor, kind: str) -> Tensor:
    """Returns the top class, (batch, ...), or yes and no, (batch, ..., labels)."""
    return ops.argmax(logits, axis=-1) if kind == CLASSES else logits > 0


def agreement_of(first: Tensor, second: Tensor, kind: str) -> Tensor:
    """Returns how far answers are the same, (batch, ...), float32."""
    same = ops.cast(ops.equal(first, second), "float32")
    return same if kind == CLASSES else ops.mean(same, axis=-1)


def peer_distance(logits: Tensor, kind: str = CLASSES) -> Tensor:
    """Returns the mean distance of the peers' probabilities, over all pairs of peers.

    Args:
        logits: (batch, peers, units).
        kind: `"classes"`, or `"labels"`: the mean over the labels of the distance of the
            probabilities of yes and no.

    Returns:
        (batch,), float32.

    Raises:
        ValueError: If there are fewer than two peers.
    """
    logits = ops.cast(logits, "float32")
    first, second = _pairs(logits)
    probabilities = ops.softmax(logits, axis=-1) if kind == CLASSES else ops.sigmoid(logits)
    difference = ops.take(probabilities, first, axis=1) - ops.take(probabilities, second, axis=1)
    if kind == LABELS:
        # The distance of (p, 1 - p) and (q, 1 - q).
        return 2.0**0.5 * ops.mean(ops.abs(difference), axis=(1, 2))
    return ops.mean(ops.sqrt(ops.sum(ops.square(difference), axis=-1)), axis=-1)


def peer_agreement(logits: Tensor, kind: str = CLASSES) -> Tensor:
    """Returns the share of pairs of peers that answer the same.

    Args:
        logits: (batch, peers, units).
        kind: `"classes"` or `"labels"`, see `same_answer`.

    Returns:
        (batch,), float32.

    Raises:
        ValueError: If there are fewer than two peers or classes.
    """
    logits = ops.convert_to_tensor(logits)
    first, second = _pairs(logits)
    same = same_answer(ops.take(logits, first, axis=1), ops.take(logits, second, axis=1), kind)
    return ops.mean(same, axis=-1)


def _pairs(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the first and of the second peer of every pair."""
    shape = tuple(logits.shape)
    if len(shape) != 3 or shape[1] is None or shape[1] < 2:
        raise ValueError(
            "Peers are compared by logits (batch, peers, classes) of at least two peers. "
            f"Received: logits of shape {shape}"
        )
    first, second = zip(*itertools.combinations(range(shape[1]), 2), strict=True)
    return np.array(first, "int32"), np.array(second, "int32")


@register("metric", "agreement")
class Agreement(keras.metrics.MeanMetricWrapper):
    """Share of samples whose top class is the same for a student and its teacher.

    mean [argmax z_s = argmax z_t]

    Samples are those of all batches and replicas together, and with positions (batch, ...,
    classes), the share is of positions. Where a Keras mask of the student's logits leaves
    positions out, they do not count.

    Args:
        kind: `"classes"`, or `"labels"`: of one logit and of independent labels, the share of the
            labels whose answer, z > 0, is the same. Defaults to `"classes"`.
        name: Name of the metric. Defaults to `"agreement"`.
        dtype: Type of the state and of the result. Defaults to `"float32"`.

    Call arguments:
        y_true: The teacher's logits (or probabilities), (batch, ..., classes).
        y_pred: The student's, of the same shape.
        sample_weight: Weights that broadcast to (batch, ...), or `None`.

    Returns:
        A scalar from 0 to 1; 0 before the first sample.

    Raises:
        ValueError: If the shapes differ, or there are fewer than two classes.

    Example:
        >>> import numpy as np
        >>> metric = Agreement()
        >>> teacher = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
        >>> student = np.array([[9.0, 1.0], [1.0, 0.0], [5.0, 3.0]])
        >>> metric.update_state(teacher, student)
        >>> round(float(metric.result()), 4)
        0.6667
    """

    def __init__(
        self, name: str = "agreement", dtype: str = "float32", *, kind: str = CLASSES
    ) -> None:
        kind = require_choice("kind", kind, KINDS)
        super().__init__(same_answer, name=name, dtype=dtype, kind=kind)
        self.kind = kind
        set_direction(self, "up")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {"name": self.name, "dtype": self.dtype, "kind": self.kind}


class _PeerMetric(keras.metrics.Mean):
    """Base class of metrics that compare all pairs of peers: the mean over the samples."""

    identifier: str

    def __init__(
        self, name: str | None = None, dtype: str = "float32", *, kind: str = CLASSES
    ) -> None:
        super().__init__(name=name or self.identifier, dtype=dtype)
        self.kind = require_choice("kind", kind, KINDS)

    def update_state(self, logits: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch of the peers' logits, (batch, peers, classes)."""
        super().update_state(self.per_sample(logits, self.kind), sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {**super().get_config(), "kind": self.kind}

    @staticmethod
    def per_sample(logits: Tensor, kind: str) -> Tensor:
        """Returns the values per sample, (batch,), that are averaged."""
        raise NotImplementedError


@register("metric", "peer_diversity")
class PeerDiversity(_PeerMetric):
    """Diversity of peers: how far apart their probabilities lie.

    mean over samples and over pairs i < j of ‖softmax(z_i) - softmax(z_j)‖

    It is 0 for peers that predict the same, and √2 at most, for two that are sure of different
    classes.

    Args:
        kind: `"classes"`, or `"labels"`: of one logit and of independent labels, each label counts
            as two classes, yes and no; the mean over the labels. Defaults to `"classes"`.
        name: Name of the metric. Defaults to `"peer_diversity"`.
        dtype: Type of the state and of the result. Defaults to `"float32"`.

    Call arguments:
        logits: (batch, peers, classes).
        sample_weight: (batch,), or `None`.

    Returns:
        A scalar from 0 to √2; 0 before the first sample.

    Raises:
        ValueError: If the logits are not of at least two peers.

    Example:
        >>> import numpy as np
        >>> metric = PeerDiversity()
        >>> metric.update_state(np.array([[[50.0, 0.0], [0.0, 50.0]], [[1.0, 2.0], [1.0, 2.0]]]))
        >>> round(float(metric.result()), 4)
        0.7071

    Reference:
        Chen et al., Online Knowledge Distillation with Diverse Peers, 2020.
    """

    per_sample = staticmethod(peer_distance)


@register("metric", "peer_agreement")
class PeerAgreement(_PeerMetric):
    """Agreement of peers: the share of pairs with the same top class.

    mean over samples and over pairs i < j of [argmax z_i = argmax z_j]

    Args:
        kind: `"classes"`, or `"labels"`: of one logit and of independent labels, the share of the
            labels whose answer, z > 0, is the same. Defaults to `"classes"`.
        name: Name of the metric. Defaults to `"peer_agreement"`.
        dtype: Type of the state and of the result. Defaults to `"float32"`.

    Call arguments:
        logits: (batch, peers, classes).
        sample_weight: (batch,), or `None`.

    Returns:
        A scalar from 0 to 1; 0 before the first sample.

    Raises:
        ValueError: If the logits are not of at least two peers and classes.

    Example:
        >>> import numpy as np
        >>> metric = PeerAgreement()
        >>> metric.update_state(np.array([[[2.0, 1.0], [3.0, 0.0], [0.0, 1.0]]]))
        >>> round(float(metric.result()), 4)
        0.3333
    """

    per_sample = staticmethod(peer_agreement)


__all__ = ["Agreement", "PeerAgreement", "PeerDiversity"]


def __dir__() -> list[str]:
    return __all__
