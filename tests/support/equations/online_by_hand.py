"""Peers in plain TensorFlow and float64, and their training step, written out by hand."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tests.support.equations.by_hand import cross_entropy, kl
from tests.support.equations.online_equations import Seen, normalized

IMAGE, CLASSES = (16, 32, 2), 4
MOMENTUM, EPSILON = 0.9, 1e-3


def network(channels=4, depth=0, width=8, normalize=False, name=None):
    """Returns a network of dense layers: BatchNorm if asked for, "trunk", and up to the logits."""
    layers = keras.layers
    inputs = maps = keras.Input(IMAGE)
    if normalize:
        maps = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name="norm")(maps)
    maps = layers.Dense(channels, activation="tanh", name="trunk")(maps)
    hidden = layers.GlobalAveragePooling2D(name="pooled")(maps)
    for place in range(depth):
        hidden = layers.Dense(7, activation="tanh", name=f"hidden{place}")(hidden)
    embedding = layers.Dense(width, activation="tanh", name="embedding")(hidden)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(embedding), name=name)


def scatter(variables, random, scale=0.5):
    """Moves variables, so that no two parts are alike and logits are some units apart."""
    for variable in variables:
        fan_in = variable.shape[0] if len(variable.shape) == 2 else 1
        noise = random.normal(size=variable.shape) * scale * min(1.0, 4.0 / np.sqrt(fan_in))
        variable.assign(variable + noise.astype("float32"))


def by_hand(variables):
    return [tf.Variable(variable.numpy(), dtype="float64") for variable in variables]


class Weights(NamedTuple):
    """All numbers of a peer: trunk ([scale, offset,] kernel, bias), its statistics, and head."""

    trunk: list[Any]
    statistics: list[Any]
    head: list[Any]

    def values(self):
        return Weights(*([tf.constant(v.numpy()) for v in part] for part in self))


def trunk(weights, images, training):
    *norm, kernel, bias = weights.trunk
    if norm and training:
        images = normalized(images, *norm, weights.statistics, MOMENTUM, EPSILON)
    elif norm:
        mean, variance = weights.statistics
        images = (images - mean) / tf.sqrt(variance + EPSILON) * norm[0] + norm[1]
    return tf.tanh(tf.tensordot(images, kernel, 1) + bias)


def head(weights, maps):
    """Returns embedding and logits."""
    hidden = tf.reduce_mean(maps, [1, 2])
    *lower, kernel, bias = weights.head
    for one, other in zip(lower[::2], lower[1::2], strict=True):
        hidden = tf.tanh(hidden @ one + other)
    return hidden, hidden @ kernel + bias


def weights_of(model):
    trained, statistics = model.trainable_variables, model.non_trainable_variables
    end = 4 if statistics else 2
    return Weights(by_hand(trained[:end]), by_hand(statistics), by_hand(trained[end:]))


def run(peers, views, training):
    """Returns maps, embeddings and logits of every peer; a trunk that is shared runs once."""
    if training and all(peer.trunk is peers[0].trunk for peer in peers):
        maps = tf.split(trunk(peers[0], tf.concat(views, axis=0), True), len(peers))
    else:
        maps = [trunk(p, view, training) for p, view in zip(peers, views, strict=True)]
    outputs = [head(peer, own) for peer, own in zip(peers, maps, strict=True)]
    return maps, [h for h, _ in outputs], [z for _, z in outputs]


def supervised(labels, logits, embeddings):
    """Each peer's loss beside the online one: its cross-entropy."""
    return [({"ce": cross_entropy(labels, z)}, {"ce": 1.0}) for z in logits]


class ByHand:
    """Students, what they teach one another, and a training step of plain gradient descent.

    Args:
        students: The models to start from, by name, or a branched model's parts.
        aggregator: What to take the first weights of the method from.
        equation: One of `online_equations`.
        online_weight: Weight of the online loss.
        temperature: T of the online loss.
        keep: Moves so far -> which part of the past selves stays; `None` without past selves.
        every: Steps between two moves of the past selves.
        offline: Like `supervised`: each peer's other losses and their weights, by name.
        shared: Whether all students have the first one's trunk.
        trunk_scale: What the gradient of the trunk is multiplied by.
    """

    def __init__(self, students, aggregator, equation, **settings):
        self.names = list(students)
        self.peers = [weights_of(student) for student in students.values()]
        self.settings = {
            "online_weight": 1.0,
            "temperature": 3.0,
            "keep": None,
            "every": 1,
            "offline": supervised,
            "shared": False,
            "trunk_scale": 1.0,
            **settings,
        }
        if self.settings["shared"]:
            first = self.peers[0]
            self.peers = [Weights(first.trunk, first.statistics, p.head) for p in self.peers]
        self.weights = by_hand(aggregator.trainable_variables)
        self.statistics = by_hand(aggregator.non_trainable_variables)
        self.equation = equation
        self.past, self.moves, self.steps = [peer.values() for peer in self.peers], 0, 0

    def variables(self):
        trunks = self.peers[:1] if self.settings["shared"] else self.peers
        return [p.trunk for p in trunks], [p.head for p in self.peers], self.weights

    def step(self, views, labels, learning_rate):
        """Trains on one batch and returns the logs."""
        temperature, logs, total = self.settings["temperature"], {}, 0.0
        trunks, heads, weights = self.variables()
        with tf.GradientTape() as tape:
            maps, embeddings, logits = run(self.peers, views, training=True)
            past = run(self.past, views, training=False)[2] if self.settings["keep"] else None
            seen = Seen(
                *(logits, embeddings, maps, past, views[0], labels, temperature),
                *(self.weights, self.statistics),
            )
            taught = self.equation(seen)
            each = self.settings["offline"](labels, logits, embeddings)
            for name, own, targets, (terms, shares) in zip(
                self.names, logits, taught.targets, each, strict=True
            ):
                online = sum(weight * kl(p, own, temperature) for weight, p in targets)
                total += self.settings["online_weight"] * online
                total += sum(shares[term] * value for term, value in terms.items())
                logs[f"{name}/online"] = online
                logs |= {f"{name}/{term}": value for term, value in terms.items()}
            if taught.ensemble is not None:
                logs["ensemble/ce"] = cross_entropy(labels, taught.ensemble)
                total += logs["ensemble/ce"] if taught.learns else 0.0
        logs["loss"] = total
        for log, value in taught.logs.items():
            several = isinstance(value, list)
            named = zip(self.names, value, strict=True) if several else ()
            logs |= {f"{name}/{log}": v for name, v in named} if several else {log: value}
        gradients = tape.gradient(total, [trunks, heads, weights])
        scales = (self.settings["trunk_scale"], 1.0, 1.0)
        for scale, slopes, moved in zip(scales, gradients, (trunks, heads, weights), strict=True):
            pairs = zip(tf.nest.flatten(slopes), tf.nest.flatten(moved), strict=True)
            for slope, variable in pairs:
                if slope is not None:
                    variable.assign_sub(learning_rate * scale * slope)
        self._follow()
        return {name: float(value) for name, value in logs.items()}

    def _follow(self):
        self.steps += 1
        keep, every = self.settings["keep"], self.settings["every"]
        if keep is None or self.steps % every:
            return
        part = keep(self.moves)
        self.moves += 1
        for place, peer in enumerate(self.peers):
            both = zip(self.past[place], peer.values(), strict=True)
            self.past[place] = Weights(
                *(
                    [part * then + (1.0 - part) * now for then, now in zip(*one, strict=True)]
                    for one in both
                )
            )
