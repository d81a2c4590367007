"""Embedding probes: measure with a few labels how well a student's embedding separates classes."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from modreduce_keras.arguments import require_integer, require_number
from modreduce_keras.batches import Batches
from modreduce_keras.labels import require_one_hot
from modreduce_keras.ops import float32
from modreduce_keras.taps import TapReader

UNLABELLED = -1


class EmbeddingProbe(keras.callbacks.Callback):
    """Base class: classifies the embeddings of held-out samples by those of labelled ones.

    Args:
        x: Inputs of the labelled samples, as the student takes them.
        y: Their labels: class indices or one-hot. Samples with label -1 are left out.
        validation_data: Held-out samples `(x, y)` whose accuracy is logged.
        at: Tap of the student that is the embedding. Features with positions (maps, sequences) are
            averaged over them.
        every: Measure after the first epoch, then every `every` epochs, and after the last. The
            logs of the epochs between have the last value.
        batch_size: Batch size of the forward passes.
    """

    log = "probe_accuracy"

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        validation_data: tuple[Any, Any],
        at: str,
        every: int,
        batch_size: int,
    ) -> None:
        super().__init__()
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
            raise ValueError(
                "validation_data must be held-out samples (x, y), whose accuracy is measured. "
                f"Received: {type(validation_data).__name__}"
            )
        self.every = require_integer("every", every)
        size = require_integer("batch_size", batch_size)
        self.at = at
        self._labelled = _Samples("x", "y", x, y, size)
        self._held_out = _Samples("validation_data x", "validation_data y", *validation_data, size)
        self._embeds: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the embedding of each student, so that an unknown tap raises an error at once."""
        students: Mapping[str, Any] = getattr(self.model, "students", None) or {"": self.model}
        self._embeds = {}
        for name, student in students.items():
            reader = TapReader(student, [self.at], role="student")
            embed = partial(_embedding, reader, self.at)
            self._embeds[name] = tf.function(embed, reduce_retracing=True, autograph=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures if it is time to, and adds the accuracies to the logs."""
        is_last = epoch + 1 == self.params.get("epochs")
        if epoch % self.every == 0 or is_last or not self._last:
            self._last = self.measure()
        if logs is not None:
            logs.update(self._last)

    def measure(self) -> dict[str, float]:
        """Returns the accuracies now, by their names in the logs; once training has begun."""
        return {self._log_name(name): self._accuracy(one) for name, one in self._embeds.items()}

    def get_state(self) -> dict[str, Any]:
        """Returns the last accuracies, which `Resume` keeps."""
        return dict(self._last)

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes what `get_state` returned."""
        self._last = dict(state)

    def predict_classes(
        self, embeddings: np.ndarray, labels: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        """Returns a class for each held-out embedding.

        Args:
            embeddings: Of the labelled samples, (samples, units), float64.
            labels: Their classes, (samples,), int.
            held_out: Of the held-out samples, (others, units), float64.
        """
        raise NotImplementedError

    def _accuracy(self, embed: Any) -> float:
        pairs = [samples.embedded(embed) for samples in (self._labelled, self._held_out)]
        (embeddings, labels), (held_out, expected) = pairs
        if not (np.isfinite(embeddings).all() and np.isfinite(held_out).all()):
            return math.nan  # and not the accuracy of the class that comes first
        found = self.predict_classes(embeddings, labels, held_out)
        return float(np.mean(found == expected))

    def _log_name(self, student: str) -> str:
        name = self.model.log_name(student, self.log) if student else self.log
        return f"val_{name}"


class LinearProbe(EmbeddingProbe):
    """Measures the accuracy of a linear classifier on the student's embedding.

    After an epoch the labelled samples' embeddings h are standardized over the samples, and a
    ridge regression onto the one-hot labels is solved exactly:

        W = (HᵀH / n + l2 · I)⁻¹ Hᵀ(Y - mean Y) / n,  class = argmax(h W + mean Y)

    The accuracy on the held-out samples is added to the logs as `val_linear_probe_accuracy` (with
    several students `val_STUDENT/linear_probe_accuracy`). So with a few labels, you can monitor and
    choose a student that is trained without labels. Callbacks that use this log must come later in
    the list, with `mode="max"`. It is NaN if an embedding is not finite. Training is not affected.

    Args:
        x: Inputs of the labelled samples, as the student takes them: arrays.
        y: Their labels: class indices (samples,) or one-hot. Samples with label -1 are left out.
        validation_data: Held-out samples `(x, y)` whose accuracy is logged.
        at: Tap of the student that is the embedding, averaged over positions if it has some.
            Defaults to `"embedding"`: what the last Dense layer reads.
        l2: Weight of the penalty on the standardized embeddings, above 0. Defaults to 0.01.
        every: Measure after the first epoch, then every `every` epochs, and after the last; the
            logs of the epochs between have the last value. Defaults to 1.
        batch_size: Batch size of the forward passes. Defaults to 256.

    Raises:
        ValueError: If an argument is out of range, or there is no label for each sample; when
            training begins, if the tap is unknown.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> x, y = np.repeat(np.eye(3, dtype="float32"), 4, axis=0), np.repeat(np.arange(3), 4)
        >>> dense = keras.layers.Dense
        >>> net = lambda: keras.Sequential([keras.Input((3,)), dense(8), dense(3)])
        >>> distiller = mr.Distiller(student=net(), teacher=net(), knowledge="kd")
        >>> distiller.compile("sgd")
        >>> probe = mr.callbacks.LinearProbe(x, y, validation_data=(x, y))
        >>> distiller.fit(x, callbacks=[probe], verbose=0).history["val_linear_probe_accuracy"]
        [1.0]

    Reference:
        Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016,
        who fit a softmax regression by gradient descent; a ridge regression needs no tuning and is
        the same in each run.
    """

    log = "linear_probe_accuracy"

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        validation_data: tuple[Any, Any],
        at: str = "embedding",
        l2: float = 0.01,
        every: int = 1,
        batch_size: int = 256,
    ) -> None:
        options: dict[str, Any] = {"at": at, "every": every, "batch_size": batch_size}
        super().__init__(x, y, validation_data=validation_data, **options)
        self.l2 = require_number("l2", l2, above=0.0)

    def predict_classes(
        self, embeddings: np.ndarray, labels: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        h, others = (embeddings - mean) / scale, (held_out - mean) / scale
        targets = np.eye(int(labels.max()) + 1)[labels]
        prior = targets.mean(axis=0)
        gram = h.T @ h / len(h) + self.l2 * np.eye(h.shape[1])
        weights = np.linalg.solve(gram, h.T @ (targets - prior) / len(h))
        return np.argmax(others @ weights + prior, axis=-1)


class NearestNeighbors(EmbeddingProbe):
    """Measures the accuracy of a nearest-neighbour classifier on the student's embedding.

    After an epoch a held-out sample gets the class with the most votes of its k nearest labelled
    samples, by the cosine s of the embeddings; a vote counts exp(s / temperature). The accuracy is
    added to the logs as `val_knn_accuracy` (with several students `val_STUDENT/knn_accuracy`).
    Callbacks that use this log must come later in the list, with `mode="max"`. It is NaN if an
    embedding is not finite. Training is not affected.

    Args:
        x, y, validation_data: The labelled samples, and held-out ones; see `LinearProbe`.
        k: Number of neighbours that vote; if there are fewer labelled samples, all of them.
            Defaults to 20.
        temperature: Above 0; with a smaller value the nearest neighbours count more. Defaults to
            0.07.
        at: Tap of the student that is the embedding; see `LinearProbe`.
        every: Number of epochs from one measurement to the next; see `LinearProbe`.
        batch_size: Batch size of the forward passes. Defaults to 256.

    Raises:
        ValueError: If an argument is out of range, or there is no label for each sample; when
            training begins, if the tap is unknown.

    Example:
        >>> import keras, numpy as np, modreduce_keras as mr
        >>> x, y = np.repeat(np.eye(3, dtype="float32"), 4, axis=0), np.repeat(np.arange(3), 4)
        >>> dense = keras.layers.Dense
        >>> net = lambda: keras.Sequential([keras.Input((3,)), dense(8), dense(3)])
        >>> distiller = mr.Distiller(student=net(), teacher=net(), knowledge="kd")
        >>> distiller.compile("sgd")
        >>> neighbors = mr.callbacks.NearestNeighbors(x, y, k=3, validation_data=(x, y))
        >>> distiller.fit(x, callbacks=[neighbors], verbose=0).history["val_knn_accuracy"]
        [1.0]

    Reference:
        Wu, Xiong, Yu and Lin, Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination, 2018, with k = 200; k = 20 is that of Caron et al., Emerging Properties in
        Self-Supervised Vision Transformers, 2021.
    """

    log = "knn_accuracy"

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        validation_data: tuple[Any, Any],
        k: int = 20,
        temperature: float = 0.07,
        at: str = "embedding",
        every: int = 1,
        batch_size: int = 256,
    ) -> None:
        options: dict[str, Any] = {"at": at, "every": every, "batch_size": batch_size}
        super().__init__(x, y, validation_data=validation_data, **options)
        self.k = require_integer("k", k)
        self.temperature = require_number("temperature", temperature, above=0.0)

    def predict_classes(
        self, embeddings: np.ndarray, labels: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        known, targets = _unit(embeddings), np.eye(int(labels.max()) + 1)[labels]
        number, found = min(self.k, len(known)), []
        for begin in range(0, len(held_out), 1024):  # not all pairs at once
            cosines = _unit(held_out[begin : begin + 1024]) @ known.T
            nearest = np.argpartition(-cosines, number - 1, axis=1)[:, :number]
            values = np.take_along_axis(cosines, nearest, axis=1)
            votes = np.exp((values - values.max(axis=1, keepdims=True)) / self.temperature)
            found.append(np.argmax(np.einsum("ik,ikc->ic", votes, targets[nearest]), axis=-1))
        return np.concatenate(found)


class _Samples:
    """Labelled samples, those without a label left out."""

    def __init__(self, x_name: str, y_name: str, x: Any, y: Any, batch_size: int) -> None:
        labels = _classes(y, y_name)
        leaves = keras.tree.flatten(x)
        if not leaves or any(getattr(leaf, "shape", (0,))[:1] != labels.shape for leaf in leaves):
            shapes = [getattr(leaf, "shape", type(leaf).__name__) for leaf in leaves]
            raise ValueError(
                f"{x_name} must be arrays with one sample for each of {len(labels)} labels "
                f"{y_name}. Received: {shapes}"
            )
        rows = np.flatnonzero(labels != UNLABELLED)
        if not len(rows):
            raise ValueError(f"{y_name} must have a label that is not -1. Received: none")
        x = keras.tree.map_structure(lambda leaf: np.asarray(leaf)[rows], x)
        self._batches, self._labels = Batches(x_name, x, batch_size, again=True), labels[rows]

    def embedded(self, embed: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings, (samples, units), float64, and the classes, (samples,)."""
        parts = [np.asarray(embed(batch), "float64") for batch in map(_inputs, self._batches)]
        return np.concatenate(parts), self._labels


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple) else batch


def _classes(y: Any, name: str) -> np.ndarray:
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[-1] > 1:
        require_one_hot(labels, name)
        return labels.argmax(axis=-1)
    labels = labels.reshape(-1) if labels.ndim == 2 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "iuf" or (labels != np.floor(labels)).any():
        raise ValueError(
            f"{name} must be class indices (samples,) or one-hot. Received: labels of shape "
            f"{labels.shape} and dtype {labels.dtype}"
        )
    if len(labels) and labels.min() < UNLABELLED:
        raise ValueError(
            f"{name} must be class indices from 0 on, or -1 where there is no label. "
            f"Received: {labels.min()}"
        )
    return labels.astype("int64")


def _embedding(reader: TapReader, tap: str, inputs: Any) -> Any:
    features = float32(reader(inputs, training=False).features[tap])
    axes = tuple(range(1, len(features.shape) - 1))
    return ops.mean(features, axis=axes) if axes else features


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
