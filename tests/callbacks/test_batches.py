"""Tests of going through data batch by batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from modreduce_keras.callbacks.batches import Batches

X, Y = np.arange(10.0).reshape(5, 2), np.arange(5)


class Pairs(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.ended = 0

    @property
    def num_batches(self):
        return 3

    def __getitem__(self, number):
        return X[2 * number : 2 * number + 2], Y[2 * number : 2 * number + 2]


def as_arrays(batches):
    return [keras.tree.map_structure(np.asarray, batch) for batch in batches]


def test_arrays_keep_their_structure():
    data = ({"a": X, "b": X + 1}, Y, None)
    for _ in range(2):
        first, last = as_arrays(Batches(data, 3))
        np.testing.assert_array_equal(first[0]["b"], X[:3] + 1)
        np.testing.assert_array_equal(last[0]["a"], X[3:])
        np.testing.assert_array_equal(last[1], Y[3:])


def test_inputs_alone_are_a_tuple_of_one():
    ((batch,),) = as_arrays(Batches([X, X], 8))
    assert len(batch) == 2
    assert len(list(Batches(tf.constant(X), 2))) == 3


@pytest.mark.parametrize(
    "data", [tf.data.Dataset.from_tensor_slices((X, Y)).batch(2), Pairs()], ids=["tf.data", "keras"]
)
def test_datasets_are_gone_through_again_and_again(data):
    batches = Batches(data, 99)
    assert not batches.is_array
    for _ in range(2):
        found = as_arrays(batches)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X)
        np.testing.assert_array_equal(np.concatenate([y for _, y in found]), Y)


@pytest.mark.parametrize("data", [None, (None, Y[:0].tolist()), [1.0, 2.0], iter([X])])
def test_other_data_are_refused(data):
    with pytest.raises(TypeError, match=r"data must be arrays, as x, .* Received: data of type"):
        Batches(data, 2)


def test_tuples_that_are_not_data_are_refused():
    with pytest.raises(ValueError, match="Received: a tuple of 4"):
        Batches((X, X, X, X), 2)
    with pytest.raises(ValueError, match=r"equal numbers of samples. Received: \[5, 4\] samples"):
        Batches((X, Y[:4]), 2)
