"""Batches: reads arrays and datasets of users, which must be finite."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from modreduce_keras.keras_internals import inputs_of

LARGEST_UNSIZED = 1_000
"""Batches that are read of an iterator, or of anything else without a length."""
LARGEST_UNKNOWN = 5_000
"""Batches that are read of a `tf.data.Dataset` of unknown size."""
_NUMBERS_AHEAD = 2**23
"""Numbers in the batches that are looked at before the first of them is given."""
_END = object()
_INFINITE, _UNKNOWN = -1, -2  # as `tf.data` has them
_ENDLESS_ITERATORS = (itertools.cycle, itertools.count)


class Batches:
    """Goes through arrays or a dataset, batch by batch, to its end.

    - Arrays (of NumPy, TensorFlow, pandas, ...), as `x`, `(x, y)` or `(x, y, sample_weight)`.
    - A `tf.data.Dataset` that ends. One of unknown size has to end within 5,000 batches.
    - A `keras.utils.PyDataset`, or anything else that has a length (a list of batches, a loader):
      as many batches as its length says.
    - A generator, or anything else without a length: it has to end within 1,000 batches.

    Args:
        argument: Name of the argument that the data came as, for messages.
        data: The data.
        batch_size: For arrays: how many samples make a batch.
        inputs: How many inputs a batch has, where that is known: a list of another number of arrays
            is one of batches. Defaults to `None`: a list of arrays is a batch of several inputs.
        again: Whether the data are gone through more than once, which no iterator can be.

    Raises:
        TypeError: If the data are of another kind, or an iterator that cannot be read `again`.
        ValueError: If they are known to have no end, there is a tuple of more than three, or arrays
            differ in their numbers of samples; on the way, if no end has come.
    """

    def __init__(
        self,
        argument: str,
        data: Any,
        batch_size: int = 256,
        *,
        inputs: int | None = None,
        again: bool = False,
    ) -> None:
        self.argument, self.batch_size = argument, batch_size
        self._data, self._arrays = data, _arrays(data, inputs)
        self.is_array = self._arrays is not None
        if self.is_array:
            self._require_samples()
        else:
            self._require_batches(again)

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches, in the form in which they were given."""
        if self.is_array:
            return self._slices()
        if isinstance(self._data, keras.utils.PyDataset):
            return self._of_py_dataset()
        return self._of_iterable()

    def _require_samples(self) -> None:
        sizes = [len(leaf) for leaf in _leaves(self._arrays)]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"{self.argument} must be arrays of equal numbers of samples. Received: "
                f"{sorted(set(sizes))}"
            )

    def _require_batches(self, again: bool) -> None:
        argument, data = self.argument, self._data
        readable = isinstance(data, Iterable) or _length(data) is not None
        scalars = hasattr(data, "__array__") or _is_list_of_numbers(data)
        if not readable or scalars or isinstance(data, (str, bytes, dict, tuple)):
            called = f": call it, {argument}=list(function())" if callable(data) else ""
            raise TypeError(
                f"{argument} must be a dataset of batches (x, y) or x (a tf.data.Dataset, a "
                "keras.utils.PyDataset, a list), or arrays: x, (x, y) or (x, y, sample_weight). "
                f"Received: {argument} of type {type(data).__name__}{called}"
            )
        require_end(argument, data)
        if again:
            require_readable_again(argument, data)

    def _slices(self) -> Iterator[Any]:
        for begin in range(0, len(_leaves(self._arrays)[0]), self.batch_size):
            cut = slice(begin, begin + self.batch_size)
            yield keras.tree.map_structure(
                lambda leaf, cut=cut: None if leaf is None else leaf[cut], self._arrays
            )

    def _of_py_dataset(self) -> Iterator[Any]:
        data = self._data
        data.on_epoch_begin()
        for number in range(data.num_batches):
            yield _as_keras_reads(data[number])
        data.on_epoch_end()

    def _of_iterable(self) -> Iterator[Any]:
        data, length = self._data, _length(self._data)
        if length is None:
            yield from self._at_most(LARGEST_UNKNOWN if is_tf_dataset(data) else LARGEST_UNSIZED)
        elif isinstance(data, list) or is_tf_dataset(data):
            yield from data
        elif isinstance(data, Iterable):
            yield from map(_as_keras_reads, itertools.islice(data, length))
        else:
            yield from (_as_keras_reads(data[number]) for number in range(length))

    def _at_most(self, limit: int) -> Iterator[Any]:
        batches, numbers = iter(self._data), 0
        ahead: list[Any] = []
        # Looks ahead, so that small data without an end are refused before they are worked on.
        while len(ahead) <= limit and numbers <= _NUMBERS_AHEAD:
            batch = next(batches, _END)
            if batch is _END:
                break
            ahead.append(batch)
            numbers += sum(math.prod(leaf.shape) for leaf in _leaves(batch) if _is_array(leaf))
        if len(ahead) > limit:
            raise self._too_many(limit)
        for number, batch in enumerate(itertools.chain(ahead, batches)):
            if number == limit:
                raise self._too_many(limit)
            yield batch

    def _too_many(self, limit: int) -> ValueError:
        return ValueError(
            f"{self.argument} has not ended after {limit:,} batches, and cannot say whether it "
            f"will: {_remedy(self._data)}. Received: {self.argument} of type "
            f"{type(self._data).__name__}, without a length"
        )


def unpack(batch: Any) -> tuple[Any, Any, Any]:
    """Returns inputs, labels and sample weights of a batch, `None` for what it lacks.

    Only a tuple has several of them; a list or dict is of several inputs.

    Raises:
        ValueError: If it is a tuple of another number.
    """
    if not isinstance(batch, tuple):
        return batch, None, None
    if not 1 <= len(batch) <= 3:
        raise ValueError(
            "A tuple of data must be (x,), (x, y) or (x, y, sample_weight); several inputs come "
            f"in a list or a dict. Received: a tuple of {len(batch)}"
        )
    return (*batch, None, None)[:3]


def may_have_labels(data: Any) -> bool:
    """Returns `False` of arrays and datasets that are known to have no labels, else `True`."""
    if is_tf_dataset(data):
        data = data.element_spec
    elif isinstance(data, keras.utils.PyDataset):
        data = data[0]
    elif not isinstance(data, tuple) and not hasattr(data, "shape"):
        return True
    return unpack(data)[1] is not None


INPUTS, INDEX, TEACHER_OUTPUTS = "inputs", "sample_index", "teacher_outputs"
"""What inputs with an index consist of, those of `mr.data.with_index` and of a teacher cache."""


def is_indexed(x: Any) -> bool:
    """Returns whether inputs carry the index of each sample."""
    return isinstance(x, dict) and {INPUTS, INDEX} <= set(x) <= {INPUTS, INDEX, TEACHER_OUTPUTS}


def split_index(x: Any) -> tuple[Any, Any]:
    """Returns the inputs of the models and the samples' index, `None` where there is none."""
    return (x[INPUTS], x[INDEX]) if is_indexed(x) else (x, None)


def require_end(argument: str, data: Any, otherwise: str = "") -> None:
    """Raises if data are known to have no end.

    Args:
        argument: Name of the argument that they came as.
        data: Of any kind.
        otherwise: What else mends it, for the message.

    Raises:
        ValueError: If they have none.
    """
    if is_tf_dataset(data):
        endless = _never_ends(data)
    elif isinstance(data, keras.utils.PyDataset):
        endless = data.num_batches is None
    else:
        endless = isinstance(data, _ENDLESS_ITERATORS)
    if endless:
        raise ValueError(
            f"{argument} must end: {_remedy(data)}{otherwise}. Received: {argument} of type "
            f"{type(data).__name__}, which never ends"
        )


def require_readable_again(argument: str, data: Any) -> None:
    """Raises a `TypeError` if data are an iterator, which can be read once.

    Args:
        argument: Name of the argument that they came as.
        data: Of any kind.
    """
    if isinstance(data, Iterator) and _length(data) is None:
        raise TypeError(
            f"{argument} is read again and again, and an iterator only once: give a "
            f"tf.data.Dataset, a keras.utils.PyDataset, or list({argument}). Received: "
            f"{argument} of type {type(data).__name__}"
        )


def is_tf_dataset(data: Any) -> bool:
    """Returns whether data are a `tf.data.Dataset` or one that is distributed."""
    return hasattr(data, "element_spec") and callable(getattr(data, "cardinality", None))


def _never_ends(dataset: Any) -> bool:
    """Returns whether a `tf.data.Dataset` is known to have no end."""
    size = int(dataset.cardinality())
    if size != _UNKNOWN:
        return size == _INFINITE
    inputs = inputs_of(dataset)
    # A filter of what never ends is of unknown size. Of several inputs the shortest may count.
    return len(inputs) == 1 and not _takes(dataset) and _never_ends(inputs[0])


def _takes(dataset: Any) -> bool:
    """Returns whether a dataset is a part of the one before it: `take` or `take_while`."""
    takes = type(dataset.take(1)), type(dataset.take_while(lambda *_: True))
    return isinstance(dataset, takes)


def _remedy(data: Any) -> str:
    if is_tf_dataset(data):
        return "dataset.take(n) is n batches of it"
    if isinstance(data, keras.utils.PyDataset):
        return "[dataset[i] for i in range(n)] is n batches of it"
    return "list(itertools.islice(iterator, n)) is n batches of it"


def _length(data: Any) -> int | None:
    """Returns the number of batches, `None` where it is not known."""
    if is_tf_dataset(data):
        size = int(data.cardinality())
        return None if size < 0 else size
    try:
        return len(data)
    except (TypeError, NotImplementedError):  # a loader of an iterable has `__len__`, which fails
        return None


def _as_keras_reads(batch: Any) -> Any:
    """Returns a batch of a `PyDataset` or a loader, in which a list is a tuple, as for `fit`."""
    return tuple(batch) if isinstance(batch, list) else batch


def _arrays(data: Any, inputs: int | None) -> tuple | None:
    """Returns data as a tuple of arrays, nested as they came; `None` where they are not arrays."""
    x, *rest = unpack(data)
    tensors = keras.tree.flatten(x) if isinstance(x, dict) else x
    # A list of tuples or dicts is one of batches.
    several = isinstance(tensors, list)
    if several and inputs is not None and len(tensors) != inputs:
        return None
    tensors = tensors if several else [tensors]
    if not tensors or not all(map(_is_array, tensors)):
        return None
    size = len(data) if isinstance(data, tuple) else 1
    return tuple(keras.tree.map_structure(_sliceable, _labels(one)) for one in (x, *rest)[:size])


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and bool(getattr(value, "shape", ()))


def _labels(values: Any) -> Any:
    """Returns labels or weights; those in a list of numbers as an array."""
    leaves = [] if values is None else keras.tree.flatten(values)
    if isinstance(values, (list, tuple)) and not any(map(_is_array, leaves)):
        return np.asarray(values)
    return values


def _sliceable(array: Any) -> Any:
    """Returns an array of which a slice takes rows; tables of pandas take columns."""
    return array.to_numpy() if hasattr(array, "to_numpy") else array


def _leaves(arrays: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]


def _is_list_of_numbers(data: Any) -> bool:
    return isinstance(data, list) and any(isinstance(one, (int, float)) for one in data)


def require_finite_inputs(argument: str, x: Any) -> None:
    """Raises if a batch of inputs has infinities or what is not a number.

    Args:
        argument: Name of the argument that the data came as.
        x: The inputs of one batch.
    """
    for array in map(keras.ops.convert_to_numpy, keras.tree.flatten(x)):
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            several = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
            raise ValueError(
                f"{argument} must have finite inputs: leave out samples that have infinities or "
                "what is not a number, or mend them with np.nan_to_num(x). Received: a batch in "
                f"which {several} of {len(array)} samples are not finite"
            )
