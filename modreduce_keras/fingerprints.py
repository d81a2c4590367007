"""Fingerprints: hashes of the values of variables and arrays, the same in every process."""

import hashlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

STRINGS = "OSU"
"""Kinds of NumPy's dtypes that hold strings."""


def fingerprint_of(variables: Iterable[keras.Variable]) -> str:
    """Returns a hash of the present values of variables, their shapes, dtypes and order.

    Args:
        variables: Variables of Keras; their names do not count.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=8)
    for variable in variables:
        value = ops.convert_to_numpy(ops.convert_to_tensor(variable))
        digest.update(f"{value.dtype.name} {value.shape} ".encode())
        digest.update(content_of(value))
    return digest.hexdigest()


def content_of(array: Any) -> bytes | memoryview:
    """Returns the bytes of an array that a hash is made of.

    Strings count by what they hold, in UTF-8 and each with its length, whether NumPy keeps them as
    objects, as bytes or as characters of a fixed width.

    Args:
        array: An array or a scalar of NumPy.

    Raises:
        TypeError: If it holds objects that are not strings.
    """
    array = np.asarray(array)
    if array.dtype.kind not in STRINGS:
        return np.ascontiguousarray(array).reshape(-1).view("uint8").data
    encoded = list(map(_encoded, array.reshape(-1).tolist()))
    return b"".join(len(one).to_bytes(8, "little") + one for one in encoded)


def _encoded(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return value
    raise TypeError(
        "Arrays of objects must hold strings. Received: an array with an object of type "
        f"{type(value).__name__}"
    )
