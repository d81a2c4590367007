"""Warns of data whose order a restart does not repeat."""

import warnings
from typing import Any

import keras

from modreduce_keras.batches import is_tf_dataset
from modreduce_keras.calls import stacklevel_of_user
from modreduce_keras.keras_internals import draws_order, inputs_of


def warn_of_order(data: Any, shuffle: Any) -> None:
    """Warns if data are seen to have an order that a restart does not repeat.

    Args:
        data: What `fit` was given.
        shuffle: Its argument `shuffle`.
    """
    if is_tf_dataset(data):
        found = "Dataset.shuffle, whose order depends on the process" if _is_drawn(data) else ""
        remedy = "mr.data.epoch_shuffle(samples, seed=0).batch(...) in its place"
    else:
        is_arrays = all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(data))
        shuffles = shuffle and (is_arrays or isinstance(data, keras.utils.PyDataset))
        found = "fit(shuffle=True), the default" if shuffles else ""
        remedy = "fit(..., shuffle=False), and mr.data.epoch_shuffle for another order each epoch"
    if found:
        warnings.warn(
            "A run that is resumed will see its samples in another order, and some of the epoch "
            f"in which it was interrupted twice or not at all: use {remedy}. Received: data "
            f"shuffled by {found}",
            stacklevel=stacklevel_of_user(),
        )


def _is_drawn(dataset: Any) -> bool:
    return draws_order(dataset) or any(map(_is_drawn, inputs_of(dataset)))
