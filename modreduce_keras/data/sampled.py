"""sampled and noise: random inputs for training without data."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from modreduce_keras.arguments import require_integer, require_number, require_sizes
from modreduce_keras.data.epoch_shuffle import per_epoch
from modreduce_keras.data.seeded import require_seeded
from modreduce_keras.typing import Tensor

_EXAMPLE = "tf.random.stateless_uniform((count, ...), seed)"


def sampled(
    sample: Callable[[Tensor, int], Any], *, batch_size: int = 64, steps: int, seed: int = 0
) -> tf.data.Dataset:
    """Returns a dataset of batches that a function draws at random, new ones in each epoch.

    Use it if the data are not available but their distribution is known, such as the ranges of the
    columns of a table, or the frequencies of tokens. The student learns from the teacher's outputs
    for these inputs:

        distiller = mr.Distiller(student=student, teacher=teacher, knowledge="kd")
        distiller.compile("adam")                                   # no loss: there are no labels
        distiller.fit(mr.data.sampled(rows, steps=100), epochs=20)

    The draws are a function of the seed, the epoch of `fit` (see `mr.data.epoch_shuffle`) and the
    number of the batch, so an interrupted run can be resumed exactly.

    Args:
        sample: `sample(seed, count)` returns `count` inputs, (count, ...), or a structure of
            those. `seed` is an int32 tensor (2,) for functions such as
            `tf.random.stateless_uniform`. It runs in the graph of the dataset, once; a function
            of NumPy goes into `tf.numpy_function(draw, [seed], tf.float32)`.
        batch_size: Number of inputs in a batch. Defaults to 64.
        steps: Number of batches in an epoch.
        seed: An integer that is not negative. Defaults to 0.

    Returns:
        A dataset of `steps` batches of inputs, without labels.

    Raises:
        TypeError: If `sample` is not a function.
        ValueError: If another argument is not a valid integer, or `sample` returns another number
            of inputs, or inputs that do not depend on the seed.

    Example:
        >>> import tensorflow as tf, modreduce_keras as mr
        >>> def ages(seed, count):
        ...     return tf.random.stateless_uniform((count, 1), seed, 18.0, 65.0)
        >>> [batch] = mr.data.sampled(ages, batch_size=4, steps=1)
        >>> tuple(batch.shape), bool(tf.reduce_all((batch >= 18.0) & (batch < 65.0)))
        ((4, 1), True)
    """
    if not callable(sample):
        raise TypeError(
            "sample must be a function of a seed and a number, sample(seed, count), that returns "
            f"count inputs. Received: {sample=}"
        )
    batch_size = require_integer("batch_size", batch_size)
    steps = require_integer("steps", steps)
    seed = require_integer("seed", seed, least=0)
    if seed >= 2**63:
        raise ValueError(f"seed must be an integer below 2**63. Received: {seed=}")

    def drawn(epoch: Tensor, step: Tensor) -> Any:
        key = _seed_of(seed, epoch, step)
        inputs = tf.nest.map_structure(
            lambda part: _batch(part, batch_size), sample(key, batch_size)
        )
        require_seeded("sample", inputs, key, _EXAMPLE)
        return inputs

    def of_epoch(epoch: Tensor) -> tf.data.Dataset:
        numbers = tf.data.Dataset.range(steps)
        return numbers.map(
            lambda step: drawn(epoch, step), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    return per_epoch(of_epoch, steps)


def noise(
    shape: Sequence[int],
    *,
    batch_size: int = 64,
    steps: int,
    seed: int = 0,
    mean: float = 0.0,
    deviation: float = 1.0,
) -> tf.data.Dataset:
    """Returns a dataset of batches of normal noise, new ones in each epoch; see `sampled`.

    `mr.DataFreeDistiller` uses it as the input of its generator. With the shape of the images, it
    is a baseline for methods without data.

    Args:
        shape: Shape of one sample: `(100,)`, or `(28, 28, 1)`.
        batch_size: Number of samples in a batch. Defaults to 64.
        steps: Number of batches in an epoch.
        seed: An integer that is not negative. Defaults to 0.
        mean: Mean of the values. Defaults to 0.
        deviation: Their standard deviation, above 0. Defaults to 1.

    Returns:
        A dataset of `steps` batches, (batch_size, *shape), float32, without labels.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import modreduce_keras as mr
        >>> [batch] = mr.data.noise((100,), batch_size=256, steps=1)
        >>> tuple(batch.shape), abs(float(batch.numpy().mean())) < 0.02
        ((256, 100), True)
    """
    sizes = require_sizes("shape", shape, "be the shape of one sample")
    mean = require_number("mean", mean)
    deviation = require_number("deviation", deviation, above=0.0)
    if math.prod(sizes) >= 2**31:
        raise ValueError(f"shape must have fewer than 2**31 values. Received: {shape=}")

    def sample(key: Tensor, count: int) -> Tensor:
        return tf.random.stateless_normal((count, *sizes), key, mean, deviation)

    return sampled(sample, batch_size=batch_size, steps=steps, seed=seed)


def _seed_of(seed: int, epoch: Tensor, step: Tensor) -> Tensor:
    """Returns two int32 that are a function of a seed, an epoch and a step in it."""
    key = tf.random.stateless_uniform(
        (2,), tf.stack([tf.constant(seed, tf.int64), epoch]), None, None, tf.int64
    )
    key += tf.stack([step, tf.zeros_like(step)])
    return tf.random.stateless_uniform((2,), key, 0, 2**31 - 1, tf.int32)


def _batch(inputs: Any, count: int) -> Tensor:
    """Returns inputs as a tensor whose number is known, or raises if they are invalid."""
    inputs = tf.convert_to_tensor(inputs)
    if inputs.shape.rank is None:  # of a function of NumPy
        raise ValueError(
            "sample must return tensors of known shape: give those of tf.numpy_function theirs by "
            "tf.ensure_shape(inputs, (count, ...)). Received: a tensor of unknown shape"
        )
    if inputs.shape.rank == 0 or inputs.shape[0] not in (None, count):
        raise ValueError(
            f"sample must return as many inputs as it is asked for, ({count}, ...). Received: a "
            f"tensor of shape {tuple(inputs.shape)}"
        )
    return tf.ensure_shape(inputs, (count, *inputs.shape[1:]))
