"""What every online method teaches whom, in plain TensorFlow, from the papers' equations."""

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Seen(NamedTuple):
    """What a method can look at in one step.

    Attributes:
        logits: (batch, classes) of each peer.
        embeddings: (batch, width) of each peer.
        maps: Output of the trunk of each peer.
        past: Logits of each peer's past self, or `None`.
        images: What the first peer sees.
        labels: Class indices.
        temperature: T.
        weights: The method's trained variables.
        statistics: The method's other variables, which it moves itself.
    """

    logits: list[Any]
    embeddings: list[Any]
    maps: list[Any]
    past: list[Any]
    images: Any
    labels: Any
    temperature: float
    weights: list[tf.Variable]
    statistics: list[tf.Variable]


class Taught(NamedTuple):
    """What a method teaches.

    Attributes:
        targets: Of each peer, pairs of a weight and softened probabilities.
        ensemble: Logits, or `None`.
        learns: Whether the ensemble's cross-entropy is part of the loss.
        logs: Values by name; those in a list are one for each peer.
    """

    targets: list[list[tuple[float, Any]]]
    ensemble: Any = None
    learns: bool = False
    logs: Mapping[str, Any] = MappingProxyType({})


def soft(logits, seen):
    """Returns constant probabilities at temperature T."""
    return tf.nn.softmax(tf.stop_gradient(logits) / seen.temperature)


def to_all(logits, seen):
    return [[(1.0, soft(logits, seen))]] * len(seen.logits)


def others(values, own):
    return [value for place, value in enumerate(values) if place != own]


def each_other(logits, seen, weight=None):
    """Every peer learns from what every other one teaches."""
    peers = len(logits)
    weight = 1.0 / (peers - 1) if weight is None else weight
    return [[(weight, soft(z, seen)) for z in others(logits, i)] for i in range(peers)]


def average(values):
    return sum(values) / len(values)


def mean(seen):
    return Taught(to_all(average(seen.logits), seen), average(seen.logits))


def leave_one_out_mean(seen):
    targets = [average(others(seen.logits, i)) for i in range(len(seen.logits))]
    return Taught([[(1.0, soft(z, seen))] for z in targets], average(seen.logits))


def mutual(seen):
    return Taught(each_other(seen.logits, seen))


def weighted_average(seen, variant="paper"):
    (free,) = seen.weights
    if variant == "modreduce":
        free.assign(tf.nn.softmax(free))
        shares = tf.unstack(free * 1.0)
    else:
        shares = tf.unstack(tf.nn.softmax(free))
    pairs = zip(shares, seen.logits, strict=True)
    ensemble = sum(share * tf.stop_gradient(z) for share, z in pairs)
    return Taught(to_all(ensemble, seen), ensemble, True, {"ensemble_weight": shares})


def fully_connected(seen):
    kernel, bias = seen.weights
    ensemble = tf.stop_gradient(tf.concat(seen.logits, axis=1)) @ kernel + bias
    return Taught(to_all(ensemble, seen), ensemble, True)


def normalized(values, scale, offset, statistics, momentum, epsilon):
    """Returns BatchNorm of a training step over all axes but the last, which moves its means."""
    mean_, variance = tf.nn.moments(values, list(range(len(values.shape) - 1)))
    for held, new in zip(statistics, (mean_, variance), strict=True):
        held.assign(momentum * held + (1.0 - momentum) * new)
    return (values - mean_) / tf.sqrt(variance + epsilon) * scale + offset


def one(seen, variant="paper"):
    kernel, bias, *scale_and_offset = seen.weights
    if variant == "paper":
        shared, logits = tf.reduce_mean(seen.maps[0], [1, 2]), seen.logits
        scores = shared @ kernel + bias
        scores = normalized(scores, *scale_and_offset, seen.statistics, 0.9, 1e-5)
    else:
        _, height, width, _ = seen.images.shape
        windows = itertools.product(range(0, height, 16), range(0, width, 16))
        pooled = [
            tf.reduce_mean(seen.images[:, top : top + 16, left : left + 16], [1, 2])
            for top, left in windows
        ]
        scores = tf.concat(pooled, axis=1) @ kernel + bias
        logits = [tf.stop_gradient(z) for z in seen.logits]
    gates = tf.nn.softmax(tf.nn.relu(scores))
    ensemble = sum(gates[:, i : i + 1] * z for i, z in enumerate(logits))
    shares = tf.unstack(tf.reduce_mean(gates, axis=0))
    return Taught(to_all(ensemble, seen), ensemble, True, {"ensemble_weight": shares})


def okddip(seen, variant="paper", through=True):
    query, key = seen.weights or seen.statistics
    group, embeddings = seen.logits[:-1], seen.embeddings[:-1]
    soften, keep = (lambda z: tf.nn.softmax(z / seen.temperature)), (lambda z: z)
    first, then = (soften, keep) if variant == "paper" else (keep, soften)
    taught = [first(z) for z in group]
    targets = []
    for h in embeddings:
        scores = [tf.reduce_sum((h @ query) * (g @ key), axis=1) for g in embeddings]
        attention = tf.nn.softmax(tf.stack(scores, axis=1))
        targets.append(then(sum(attention[:, j : j + 1] * t for j, t in enumerate(taught))))
    targets.append(then(average(taught)))
    if not through:
        targets = [tf.stop_gradient(target) for target in targets]
    pairs = itertools.combinations([tf.nn.softmax(z) for z in group], 2)
    far = [tf.reduce_mean(tf.norm(p - q, axis=1)) for p, q in pairs]
    diversity = sum(far) / len(far)
    return Taught([[(1.0, p)] for p in targets], average(group), logs={"diversity": diversity})


def pcl(seen, variant="paper"):
    if variant == "modreduce":
        return Taught(each_other(seen.past, seen, weight=1.0))
    kernel, bias = seen.weights
    ensemble = tf.concat(seen.embeddings, axis=1) @ kernel + bias
    both = zip(to_all(ensemble, seen), each_other(seen.past, seen), strict=True)
    return Taught([mine + theirs for mine, theirs in both], ensemble, True)


def codistillation(seen):
    soft_past = [soft(z, seen) for z in seen.past]
    return Taught([[(1.0, average(others(soft_past, i)))] for i in range(len(soft_past))])


def kdcl(seen, rule="min_logit"):
    logits = np.stack([z.numpy() for z in seen.logits], axis=1)
    targets = [_RULES[rule](z, label) for z, label in zip(logits, seen.labels, strict=True)]
    return Taught(to_all(tf.constant(np.stack(targets)), seen))


def _loss(z, label):
    return np.log(np.exp(z - z.max()).sum()) + z.max() - z[label]


def _naive(logits, label):
    return min(logits, key=lambda z: _loss(z, label))


def _min_logit(logits, label):
    return np.array([min(z[c] - z[label] for z in logits) for c in range(len(logits[0]))])


def _linear(logits, label):
    """The best of the smallest losses on all faces of the simplex, by Newton's method on each."""
    targets = []
    for number in range(1, len(logits) + 1):
        for chosen in itertools.combinations(range(len(logits)), number):
            target = _smallest_on_the_plane(logits[list(chosen)], label)
            if target is not None:
                targets.append(target)
    return min(targets, key=lambda z: _loss(z, label))


def _smallest_on_the_plane(logits, label):
    """Returns Σ α_i z_i of the smallest loss with Σ α_i = 1, if no α_i is negative."""
    base, directions = logits[0], logits[1:] - logits[0]
    free = np.full(len(directions), 1.0 / len(logits))
    for _ in range(25):
        z = base + free @ directions
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        slope = directions @ p - directions[:, label]
        centred = directions - (directions @ p)[:, None]
        step = np.linalg.lstsq((centred * p) @ centred.T, slope, rcond=None)[0]
        length, now = 1.0, _loss(z, label)
        while length > 1e-6 and _loss(base + (free - length * step) @ directions, label) > now:
            length /= 2.0
        free = free - length * step
    if (free < 0).any() or free.sum() > 1:
        return None
    return base + free @ directions


_RULES = {"naive": _naive, "linear": _linear, "min_logit": _min_logit}
