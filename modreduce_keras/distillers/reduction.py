"""Reduction: terms of the loss, one value per example, to the number that is minimized."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.distribute import sum_over_replicas


def number_of_examples(x: Any) -> Any:
    """Returns the size of a batch, of this replica."""
    return ops.shape(keras.tree.flatten(x)[0])[0]


def weighted_sum(terms: Mapping[str, Any], weights: Mapping[str, Any], examples: Any) -> Any:
    """Returns the loss of each example, (batch,): the sum of the terms times their weights."""
    return sum(weights[name] * terms[name] for name in weights) + ops.zeros((examples,))


def mean_over_replicas(per_example: Any) -> Any:
    """Returns this replica's part of the mean over the examples of all replicas."""
    count = ops.cast(sum_over_replicas(ops.shape(per_example)[0]), "float32")
    return ops.sum(per_example) / ops.maximum(count, 1.0)
