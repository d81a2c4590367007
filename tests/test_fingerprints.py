"""Tests of fingerprints: which values, shapes, dtypes and orders of variables they tell apart."""

import hashlib
import struct

import keras
import numpy as np
import pytest

from modreduce_keras.fingerprints import content_of, fingerprint_of


def variable(value, dtype="float32", name="kernel"):
    return keras.Variable(value, dtype=dtype, trainable=False, name=name)


PAIR = [[[1.0, 2.0], [3.0, -0.0]], [0.5]]


def of(values, **arguments):
    return fingerprint_of([variable(value, **arguments) for value in values])


def test_it_is_a_hash_of_dtypes_shapes_and_bytes():
    digest = hashlib.blake2b(digest_size=8)
    digest.update(b"float32 (2, 2) " + struct.pack("<4f", 1.0, 2.0, 3.0, -0.0))
    digest.update(b"float32 (1,) " + struct.pack("<f", 0.5))
    assert of(PAIR) == digest.hexdigest()
    assert len(of(PAIR)) == 16
    assert fingerprint_of([]) == hashlib.blake2b(digest_size=8).hexdigest()


def test_names_do_not_count_and_the_same_values_are_the_same():
    assert of(PAIR, name="other") == of(PAIR)
    changed = [variable(value) for value in PAIR]
    changed[1].assign([0.75])
    assert fingerprint_of(changed) != of(PAIR)
    changed[1].assign([0.5])
    assert fingerprint_of(iter(changed)) == of(PAIR)


@pytest.mark.parametrize(
    "other",
    [
        [[[1.0, 2.0], [3.0, 0.0]], [0.5]],
        [[[1.0, 2.0], [3.0, -0.0]], [np.nextafter(np.float32(0.5), 1)]],
        [[[1.0, 2.0, 3.0, -0.0]], [0.5]],
        [[0.5], [[1.0, 2.0], [3.0, -0.0]]],
        [[1.0, 2.0], [3.0, -0.0], [0.5]],
        [[[1.0, 2.0], [3.0, -0.0]]],
        [[[1.0, 2.0], [3.0, -0.0]], 0.5],
    ],
    ids=["sign of zero", "last bit", "shape", "order", "divided", "missing", "scalar"],
)
def test_other_variables_have_another_one(other):
    assert of(other) != of(PAIR)


def test_dtypes_count():
    dtypes = ["float16", "bfloat16", "float32", "int32", "uint8", "bool"]
    assert len({of([[0, 0]], dtype=dtype) for dtype in dtypes}) == len(dtypes)


def test_two_replicas_have_that_of_one(two_replicas):
    with two_replicas.scope():
        mirrored = [variable(value) for value in PAIR]
    assert fingerprint_of(mirrored) == of(PAIR)


WORDS = ["a", "bc", "", "d é"]


def test_strings_count_by_what_they_hold_and_not_by_where_or_how_they_are_kept():
    expected = b"".join(struct.pack("<Q", len(word.encode())) + word.encode() for word in WORDS)
    forms = [
        np.array(WORDS),
        np.array(WORDS).astype("U50"),
        np.array(WORDS, object),
        np.array(["".join(list(word)) for word in WORDS], object),
        np.array([word.encode() for word in WORDS]),
        np.array([word.encode() for word in WORDS], object),
    ]
    assert {bytes(content_of(form)) for form in forms} == {expected}
    assert content_of(np.array(["ab", "c"])) != content_of(np.array(["a", "bc"]))
    assert content_of(np.str_("a")) == content_of(np.array("a", object))


def test_other_objects_have_no_content():
    with pytest.raises(
        TypeError, match=r"must hold strings\. Received: an array with .* type list"
    ):
        content_of(np.array([[1], None], object))


def test_numbers_count_by_their_bytes():
    values = np.arange(6, dtype="float32").reshape(2, 3)
    assert bytes(content_of(values.T)) == np.ascontiguousarray(values.T).tobytes()
    assert bytes(content_of(np.float32(0.5))) == struct.pack("<f", 0.5)
