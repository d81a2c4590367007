"""The sample index: where it stands, that it follows its sample, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr
from modreduce_keras.data.index import INDEX, INPUTS, split_index

X = np.arange(12, dtype="float32").reshape(6, 2)
Y = np.arange(6) % 3
WEIGHTS = np.linspace(0.0, 1.0, 6)


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])


@pytest.mark.parametrize("arrays", [(X,), (X, Y), (X, Y, WEIGHTS)], ids=["x", "x y", "x y w"])
def test_each_sample_carries_its_place(arrays):
    elements = list(mr.data.with_index(slices(*arrays)).as_numpy_iterator())
    assert len(elements) == 6
    for place, element in enumerate(elements):
        first, *rest = element if len(arrays) > 1 else (element,)
        assert set(first) == {INPUTS, INDEX} == {"inputs", "sample_index"}
        assert (first[INDEX], first[INDEX].dtype) == (place, np.int64)
        for value, array in zip([first[INPUTS], *rest], arrays, strict=True):
            np.testing.assert_array_equal(value, array[place])


def test_the_index_follows_its_sample_through_every_epoch():
    train = mr.data.with_index(slices(X, Y)).shuffle(6, seed=1).repeat(2).batch(4)
    orders = []
    for x, y in train:
        np.testing.assert_array_equal(x[INPUTS], X[x[INDEX]])
        np.testing.assert_array_equal(y, Y[x[INDEX]])
        orders += list(x[INDEX].numpy())
    assert sorted(orders[:6]) == sorted(orders[6:]) == list(range(6))
    assert orders[:6] != orders[6:]


def test_inputs_may_be_a_dict():
    [element] = mr.data.with_index(slices({"a": X, "b": Y}).take(1))
    assert set(element[INPUTS]) == {"a", "b"}


def test_inputs_and_index_are_told_apart_and_other_inputs_left_alone():
    inputs, index = split_index({INPUTS: X, INDEX: Y})
    assert inputs is X
    assert index is Y
    for other in (X, {INPUTS: X}, {INPUTS: X, INDEX: Y, "more": Y}, [X, Y], None):
        assert split_index(other)[0] is other
        assert split_index(other)[1] is None


def test_arrays_are_refused():
    message = r"takes a tf.data.Dataset, such as .*from_tensor_slices.* Received: ndarray"
    with pytest.raises(TypeError, match=message):
        mr.data.with_index(X)


@pytest.mark.parametrize("arrays", [(X,), (X, Y)])
def test_a_batched_dataset_is_refused(arrays):
    message = r"with_index counts single samples: apply it before .batch\(\)"
    with pytest.raises(ValueError, match=message):
        mr.data.with_index(slices(*arrays).batch(2))


@pytest.mark.parametrize(
    "batch",
    [
        lambda dataset: dataset.batch(2, drop_remainder=True),
        lambda dataset: dataset.batch(2, drop_remainder=True, num_parallel_calls=2),
        lambda dataset: dataset.padded_batch(2, drop_remainder=True),
        lambda dataset: dataset.ragged_batch(2, drop_remainder=True),
        lambda dataset: dataset.apply(tf.data.experimental.map_and_batch(lambda *one: one, 2)),
    ],
    ids=["batch", "in parallel", "padded", "ragged", "mapped"],
)
def test_a_batch_is_one_by_whatever_method_and_of_whatever_size(batch):
    with pytest.raises(ValueError, match="counts single samples"):
        mr.data.with_index(batch(slices(X, Y)))


def test_a_dataset_is_no_batch_by_the_name_of_its_class():
    class BatchOfNothing(tf.data.Dataset):
        """Samples, one by one."""

        def __init__(self, dataset):
            self._dataset = dataset
            super().__init__(dataset._variant_tensor)

        @property
        def element_spec(self):
            return self._dataset.element_spec

        def _inputs(self):
            return [self._dataset]

    dataset = mr.data.with_index(BatchOfNothing(slices(X, Y)))
    assert dataset.element_spec[0]["sample_index"].shape == ()


def test_inputs_of_any_length_are_no_batch():
    dataset = tf.data.Dataset.from_generator(
        lambda: ((X[:n, 0], n) for n in (1, 2)),
        output_signature=(tf.TensorSpec((None,)), tf.TensorSpec((), "int64")),
    )
    assert [int(x[INDEX]) for x, _ in mr.data.with_index(dataset)] == [0, 1]


@pytest.mark.parametrize(
    "shuffled",
    [
        lambda data: data.shuffle(6),
        lambda data: data.shuffle(6, seed=1).map(lambda x, y: (x, y)).prefetch(1),
        lambda data: data.take(2).concatenate(data.skip(2).shuffle(4)),
    ],
)
def test_a_dataset_that_is_shuffled_anew_is_refused(shuffled):
    with pytest.raises(ValueError, match=r"apply it before .shuffle\(\)"):
        mr.data.with_index(shuffled(slices(X, Y)))


@pytest.mark.parametrize(
    "kept",
    [
        lambda data: data.shuffle(6, reshuffle_each_iteration=False),
        lambda data: data.shuffle(6).cache(),
    ],
)
def test_a_dataset_that_is_shuffled_once_is_taken(kept):
    indexed = mr.data.with_index(kept(slices(X, Y)))
    first, second = ([x[INPUTS].numpy().tolist() for x, _ in indexed] for _ in range(2))
    assert first == second
