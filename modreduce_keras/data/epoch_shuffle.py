"""epoch_shuffle: shuffles data in an order that depends only on a seed and the epoch."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from modreduce_keras.arguments import require_integer
from modreduce_keras.data.epochs import Epochs
from modreduce_keras.data.index import require_single_samples, reshuffled
from modreduce_keras.data.seeded import require_seeded
from modreduce_keras.keras_internals import set_reshuffles
from modreduce_keras.typing import Tensor

_EXAMPLE = "tf.image.stateless_random_flip_left_right(image, sample_seed)"


def epoch_shuffle(
    dataset: tf.data.Dataset,
    *,
    seed: int,
    buffer_size: int | None = None,
    augment: Callable[..., Any] | None = None,
    augmentations: int | None = None,
) -> tf.data.Dataset:
    """Returns the data of one epoch, in an order that is a function of the seed and the epoch.

    Each epoch has a different order, and every process has the same order for the same epoch,
    independent of what was read, evaluated or drawn at random before. Training needs this to
    continue exactly where it was stopped (`mr.callbacks.Resume`); the order of
    `dataset.shuffle(seed=...)` starts again in every process.

        dataset = mr.data.with_index(dataset)                     # if a method needs it
        train = mr.data.epoch_shuffle(dataset, seed=0).map(decode).batch(64).prefetch(2)
        distiller.fit(train, epochs=240, callbacks=[mr.callbacks.Resume("run")])

    The epoch is

    - in `fit`, of any Keras model, the epoch of `fit`, including `initial_epoch` and restarts. So
      two methods that are compared on one dataset see the same orders. A validation or a callback
      that reads the dataset meanwhile sees the order of that epoch too, and changes nothing. If
      several threads call `fit` at once, each needs its own dataset.
      With `steps_per_epoch`, where passes over the data and epochs differ, it is the number of the
      pass, counted from `initial_epoch`. Every iteration of this dataset then counts as a pass, so
      a validation or a callback that reads it changes the later orders of the training: use
      another `epoch_shuffle(...)` for them;
    - in a block `with mr.data.in_epoch(epoch):`, that epoch;
    - elsewhere the number of earlier iterations of this dataset outside of these: 0, 1, ...

    Later transformations must be functions of the samples: `batch`, `prefetch`, and a stateless
    `map`. A `cache` would keep the first order. For epochs of `n` batches that `Resume` can
    continue, write `.batch(64).take(n)`, not `repeat()` with `steps_per_epoch=n`.

    Args:
        dataset: Yields single samples in a fixed order, and is finite.
        seed: An integer that is not negative.
        buffer_size: Number of samples to draw from, as in `tf.data.Dataset.shuffle`. A smaller
            buffer takes less memory and mixes less. Defaults to `None`: all, a permutation.
        augment: `augment(sample_seed, *sample)` returns the augmented sample (`sample` is `x`, or
            `x, y`, ...). `sample_seed` is an int32 (2,) tensor for functions such as
            `tf.image.stateless_random_flip_left_right`. It is a function of the seed, the epoch
            and the position of the sample in the epoch. What draws nothing stands in `map`, before
            or after. Defaults to `None`.
        augmentations: Total number of different augmentations of a sample, for
            `mr.data.TeacherCache`: `sample_seed` is then a function of the seed, the index of the
            sample in `dataset`, and the epoch modulo this number. Defaults to `None`: always new
            augmentations.

    Returns:
        A dataset of one epoch, as many samples as `dataset` has.

    Raises:
        TypeError: If `dataset` is not a `tf.data.Dataset`, or `augment` not a function.
        ValueError: If the seed, the buffer size or the augmentations are not valid integers, or
            there are augmentations without `augment`, or what it returns does not depend on its
            seed; if the dataset is batched, reshuffled in each epoch or infinite; if its size is
            unknown and no buffer size is given.

    Example:
        >>> train = epoch_shuffle(tf.data.Dataset.range(4), seed=0)
        >>> first, second = (list(map(int, train)) for epoch in range(2))
        >>> sorted(first), first == second
        ([0, 1, 2, 3], False)
        >>> first == list(map(int, epoch_shuffle(tf.data.Dataset.range(4), seed=0)))
        True
    """
    _require_dataset(dataset)
    seed = require_integer("seed", seed, least=0)
    if seed >= 2**63:
        raise ValueError(f"seed must be an integer below 2**63. Received: {seed=}")
    buffer_size = require_integer("buffer_size", buffer_size, optional=True)
    augmentations = require_integer("augmentations", augmentations, optional=True)
    _require_augment(augment, augmentations)
    require_single_samples(
        dataset, "epoch_shuffle shuffles", "epoch_shuffle(dataset, seed=0).batch(64)"
    )
    size = _size(dataset, buffer_size)

    def keys_of(epoch: Any) -> Any:
        return tf.random.stateless_uniform(
            (2, 2), tf.stack([seed, epoch]), minval=None, maxval=None, dtype=tf.int64
        )

    def order(epoch: Any) -> Any:
        keys, buffer = keys_of(epoch), tf.cast(buffer_size or size, "int64")
        if augment is None:
            return shuffled_by(keys[0], dataset, buffer)

        def augmented(index: Tensor, sample: Any) -> Any:
            several = sample if isinstance(sample, tuple) else (sample,)
            sample_seed = tf.cast(_folded(keys[1], index), "int32")
            found = augment(sample_seed, *several)
            require_seeded("augment", found, sample_seed, _EXAMPLE)
            return found

        if augmentations:
            keys = tf.stack([keys[0], keys_of(epoch % augmentations)[1]])
            numbered = shuffled_by(keys[0], dataset.enumerate(), buffer)
        else:
            shuffled = shuffled_by(keys[0], dataset, buffer)
            numbered = tf.data.Dataset.zip(tf.data.Dataset.counter(), shuffled)
        return numbered.map(augmented, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return per_epoch(order, size).with_options(dataset.options())


def _require_dataset(dataset: Any) -> None:
    if not isinstance(dataset, tf.data.Dataset):
        raise TypeError(
            "epoch_shuffle takes a tf.data.Dataset, such as "
            f"tf.data.Dataset.from_tensor_slices((x, y)). Received: {type(dataset).__name__}"
        )


def _require_augment(augment: Any, augmentations: int | None) -> None:
    if augment is not None and not callable(augment):
        raise TypeError(
            "augment must be a function of a seed and a sample, augment(sample_seed, x, y), or "
            f"None. Received: {augment=}"
        )
    if augmentations and augment is None:
        raise ValueError(
            "augmentations is how many augmentations a sample has: give augment=. Received: "
            f"{augmentations=} with augment=None"
        )


def per_epoch(build: Callable[[Any], tf.data.Dataset], size: int = -1) -> tf.data.Dataset:
    """Returns a dataset that differs from epoch to epoch.

    Args:
        build: Returns the data of an epoch, given its number, an int64 scalar.
        size: Number of elements of an epoch; negative if unknown.
    """
    epochs = Epochs()

    def one(_: Any) -> Any:
        return build(tf.ensure_shape(tf.numpy_function(epochs, [], tf.int64), ()))

    result = tf.data.Dataset.from_tensors(0).flat_map(one)
    if size >= 0:
        result = result.apply(tf.data.experimental.assert_cardinality(size))
    epochs.mark(result)
    set_reshuffles(result)  # for what needs a fixed order
    return result


def _size(dataset: tf.data.Dataset, buffer_size: int | None) -> int:
    size = int(dataset.cardinality())
    if size == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "epoch_shuffle takes the data of one epoch, without repeat(). Received a dataset that "
            "does not end"
        )
    if size < 0 and buffer_size is None:
        raise ValueError(
            "epoch_shuffle needs buffer_size= for a dataset of unknown size (or tell its size by "
            "dataset.apply(tf.data.experimental.assert_cardinality(n))). Received: "
            "buffer_size=None"
        )
    if reshuffled(dataset):
        raise ValueError(
            "epoch_shuffle needs samples in an order that stays. Received a dataset that is "
            "reshuffled in each epoch: leave that shuffle out"
        )
    return size


def shuffled_by(key: Any, dataset: tf.data.Dataset, buffer_size: Any) -> tf.data.Dataset:
    """Returns the samples in an order that is a function of a key, two int64."""
    # Not `dataset.shuffle`, whose order depends on `tf.random.set_seed` too.
    specs = tf.nest.flatten(dataset.element_spec)
    # Ragged and sparse tensors go through a pipeline as variants.
    specs = [s if isinstance(s, tf.TensorSpec) else tf.TensorSpec(None, "variant") for s in specs]
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=tf.maximum(buffer_size, 1),
        seed=key[0],
        seed2=key[1],
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def _folded(key: Any, index: Any) -> Any:
    """Returns two integers that are a function of a key and an index."""
    return tf.random.stateless_uniform(
        (2,), key + tf.stack([index, 0]), minval=0, maxval=2**31 - 1, dtype=tf.int64
    )
