"""Fingerprints: a hash of what variables hold, which tells whether weights are those of before."""

import hashlib
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops


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
        digest.update(np.ascontiguousarray(value).reshape(-1).view("uint8"))
    return digest.hexdigest()
