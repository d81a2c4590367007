"""Sample index: numbers the samples of the training data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from modreduce_keras.batches import INDEX, INPUTS, TEACHER_OUTPUTS, is_indexed, split_index
from modreduce_keras.keras_internals import inputs_of, reshuffles


def with_index(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset whose inputs carry the index of each sample in it.

    Methods that remember every sample (CRD's memory bank) need it. Apply it to single samples,
    before they are shuffled and batched, so that a sample has the same index in every epoch.

    Args:
        dataset: Yields single samples: `x`, `(x, y)` or `(x, y, sample_weight)`.

    Returns:
        The same samples with `{"inputs": x, "sample_index": index}` for `x`, where the index is
        an int64 scalar. Distillers pass only `inputs` to the models.

    Raises:
        TypeError: If `dataset` is not a `tf.data.Dataset`.
        ValueError: If the dataset is batched, infinite, already has an index, or is reshuffled in
            each epoch. A dataset that reads files must read them in a fixed order
            (`shuffle_files=False`).

    Example:
        >>> dataset = tf.data.Dataset.from_tensor_slices(([[0.5], [0.7]], [1, 0]))
        >>> train = with_index(dataset).shuffle(2).batch(2)
        >>> x, y = next(iter(train))
        >>> sorted(x), sorted(x["sample_index"].numpy().tolist())
        (['inputs', 'sample_index'], [0, 1])
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            "with_index takes a tf.data.Dataset, such as "
            f"tf.data.Dataset.from_tensor_slices((x, y)). Received: {type(dataset).__name__}"
        )
    require_single_samples(
        dataset, "with_index counts", "with_index(dataset).shuffle(...).batch(64)"
    )
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "with_index counts the samples of one epoch: apply it before .repeat(). Received a "
            "dataset that does not end"
        )
    inputs = dataset.element_spec
    inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    if is_indexed(inputs):
        raise ValueError(
            "with_index is applied once. Received a dataset that has an index: "
            f"{dataset.element_spec}"
        )
    if reshuffled(dataset):
        raise ValueError(
            "with_index counts samples in an order that stays: apply it before .shuffle(), as in "
            "with_index(dataset).shuffle(...).batch(64). Received a dataset that is reshuffled "
            "in each epoch"
        )

    def indexed(index: Any, element: Any) -> Any:
        if not isinstance(element, tuple):
            return {INPUTS: element, INDEX: index}
        x, *rest = element
        return ({INPUTS: x, INDEX: index}, *rest)

    return dataset.enumerate().map(indexed, num_parallel_calls=tf.data.AUTOTUNE)


def require_single_samples(dataset: tf.data.Dataset, does: str, example: str) -> None:
    """Raises if a dataset is known to be of batches."""
    specs = tf.nest.flatten(dataset.element_spec)
    # A ragged sample has no size either.
    dense = [spec.shape for spec in specs if isinstance(spec, tf.TensorSpec)]
    leading = [shape[0] if shape.rank else 0 for shape in dense]
    if _is_batched(dataset) or (leading and all(size is None for size in leading)):
        raise ValueError(
            f"{does} single samples: apply it before .batch(), as in {example}. "
            f"Received a dataset that is batched: {dataset.element_spec}"
        )


def _is_batched(dataset: tf.data.Dataset) -> bool:
    """Returns whether the last thing that was done to a dataset was to batch it."""
    # TensorFlow has no public classes for these; their names are _BatchDataset, _MapAndBatchDataset
    # and so on. Making one of each to compare with would log that some are deprecated.
    kind = type(dataset)
    return kind.__module__.startswith("tensorflow.") and kind.__name__.endswith("BatchDataset")


def require_batches(dataset: Any, argument: str) -> None:
    """Raises if what came is a `tf.data.Dataset` that is empty, or of single samples."""
    if not isinstance(dataset, tf.data.Dataset):
        return
    spec = dataset.element_spec
    shapes = [one.shape for one in tf.nest.flatten(spec) if isinstance(one, tf.TensorSpec)]
    if any(shape.rank == 0 for shape in shapes):
        raise ValueError(
            f"{argument} must be a dataset of batches: dataset.batch(64). Received: single "
            f"samples, {spec}"
        )
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"{argument} must hold at least one batch. Received: an empty dataset")


def reshuffled(dataset: tf.data.Dataset) -> bool:
    """Returns whether a dataset is known to change its order from one epoch to the next."""
    if isinstance(dataset, type(tf.data.Dataset.range(1).cache())):
        return False  # A cache keeps the order of the first epoch.
    return reshuffles(dataset) or any(map(reshuffled, inputs_of(dataset)))


def teacher_outputs_of(x: Any) -> dict[str, Any] | None:
    """Returns a teacher's stored outputs by their fingerprint, `None` where there are none."""
    return x.get(TEACHER_OUTPUTS) if is_indexed(x) else None


def with_outputs(
    dataset: tf.data.Dataset, read: Any, *, in_parallel: bool = True
) -> tf.data.Dataset:
    """Returns a dataset of indexed batches with a teacher's outputs among the inputs.

    Args:
        dataset: The batches.
        read: Returns the outputs, in a dict by fingerprint, for inputs and index of a batch.
        in_parallel: Whether it may run for several batches at once.
    """

    def attached(*element: Any) -> Any:
        x, *rest = element
        inputs, samples = split_index(x)
        x = {INPUTS: inputs, INDEX: samples, TEACHER_OUTPUTS: read(inputs, samples)}
        return (x, *rest) if isinstance(dataset.element_spec, tuple) else x

    return dataset.map(attached, num_parallel_calls=tf.data.AUTOTUNE if in_parallel else None)


def indexed_inputs(dataset: Any, method: str, owner: str = "cache") -> Any:
    """Returns the specs of a dataset's inputs, or raises if it is invalid."""
    expected = (
        f"{owner}.{method}(dataset) takes a tf.data.Dataset of batches with an index, such as "
        "mr.data.cifar100(index=True) or mr.data.with_index(dataset).batch(64). Received: "
    )
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(f"{expected}{type(dataset).__name__}")
    spec = dataset.element_spec
    x = spec[0] if isinstance(spec, tuple) else spec
    inputs, index = split_index(x)
    flat = tf.nest.flatten(inputs)
    dense = all(isinstance(one, tf.TensorSpec) and one.shape.rank for one in flat)
    if index is None or index.shape.rank != 1 or not dense or teacher_outputs_of(x):
        raise ValueError(f"{expected}x of {x}")
    if not index.dtype.is_integer:
        raise ValueError(
            f"{INDEX} must be integers: tf.cast(index, 'int64'). Received: {INDEX} of {index}"
        )
    return inputs


def indexed_batches(dataset: tf.data.Dataset) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields inputs and index of every batch, the index as int64.

    Raises:
        ValueError: If an index is negative.
    """
    for element in dataset:
        inputs, samples = split_index(element[0] if isinstance(element, tuple) else element)
        yield inputs, as_index(samples.numpy())


def as_index(samples: np.ndarray) -> np.ndarray:
    """Returns the index of samples as int64.

    Raises:
        ValueError: If one is negative, or too large for int64.
    """
    whole = samples.astype("int64")
    if (whole < 0).any():
        raise ValueError(
            f"{INDEX} must lie from 0 to 2**63 - 1. Received: {samples[whole < 0][:8].tolist()}"
        )
    return whole
