"""Reduction: terms of the loss, one value per example, to the number that is minimized."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from modreduce_keras.distribute import sum_over_replicas


def number_of_examples(x: Any) -> Any:
    """Returns the size of a batch, of this replica."""
    return ops.shape(keras.tree.flatten(x)[0])[0]


def by_sample_weight(terms: Mapping[str, Any], sample_weight: Any) -> dict[str, Any]:
    """Returns terms, (batch,) each, times the sample weights.

    Raises:
        ValueError: If there is not one sample weight for each example.
    """
    sample_weight = _per_example(sample_weight)
    return {name: values * sample_weight for name, values in terms.items()}


def weighted_sum(terms: Mapping[str, Any], weights: Mapping[str, Any], examples: Any) -> Any:
    """Returns the loss of each example, (batch,): the sum of the terms times their weights."""
    return sum(weights[name] * terms[name] for name in weights) + ops.zeros((examples,))


def _per_example(sample_weight: Any) -> Any:
    if sample_weight is None:
        return 1.0
    if keras.tree.is_nested(sample_weight):
        raise ValueError(
            "sample_weight must have one value per example, (batch,), for all outputs alike. "
            f"Received: {sample_weight}"
        )
    shape = tuple(sample_weight.shape)
    if len(shape) == 2 and shape[1] == 1:
        sample_weight = ops.squeeze(sample_weight, axis=1)
    elif len(shape) != 1:
        raise ValueError(
            f"sample_weight must have one value per example, (batch,). Received: shape {shape}"
        )
    return ops.cast(sample_weight, "float32")


def mean_over_replicas(per_example: Any) -> Any:
    """Returns this replica's part of the mean over the examples of all replicas."""
    count = ops.cast(sum_over_replicas(ops.shape(per_example)[0]), "float32")
    return ops.sum(per_example) / ops.maximum(count, 1.0)
