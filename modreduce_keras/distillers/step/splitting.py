"""Splitting: gives each student of a distiller a part of its own of every batch."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from modreduce_keras.batches import INDEX, INPUTS, TEACHER_OUTPUTS, is_indexed
from modreduce_keras.data.student_views import key_of_view


def keys_of_parts(number: int) -> list[str]:
    """Returns the keys by which `split` gives the parts, in the order of the samples."""
    return [f"part_{place}" for place in range(number)]


def split(data: Any, keys: Sequence[str]) -> Any:
    """Splits a batch into parts of equal sizes.

    If the size of the batch is no multiple of their number, the last parts are filled up with the
    first samples: no sample is lost, and no part is empty.

    Args:
        data: `x`, `(x, y)` or `(x, y, sample_weight)`, with or without index and stored outputs of
            a teacher.
        keys: The keys of the parts.

    Returns:
        The batch with dicts by these keys: for the inputs, the labels, the sample weights and the
        index. Stored outputs of a teacher are split in the same way.
    """
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    rest = [None if one is None else _by_key(one, keys) for one in (y, weight)]
    return keras.utils.pack_x_y_sample_weight(_inputs_by_key(x, keys), *rest)


def _inputs_by_key(x: Any, keys: Sequence[str]) -> dict[str, Any]:
    if not is_indexed(x):
        return _by_key(x, keys)
    parts = {name: _by_key(x[name], keys) for name in (INPUTS, INDEX)}
    if TEACHER_OUTPUTS in x:
        parts[TEACHER_OUTPUTS] = {
            key_of_view(fingerprint, key): outputs
            for fingerprint, whole in x[TEACHER_OUTPUTS].items()
            for key, outputs in _by_key(whole, keys).items()
        }
    return parts


def _by_key(values: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Returns the parts of arrays, all of them alike, by key."""

    def part(array: Any, place: int) -> Any:
        total = ops.shape(array)[0]
        size = -(-total // len(keys))
        return ops.take(array, (place * size + ops.arange(size)) % total, axis=0)

    return {
        key: keras.tree.map_structure(lambda array, place=place: part(array, place), values)
        for place, key in enumerate(keys)
    }
