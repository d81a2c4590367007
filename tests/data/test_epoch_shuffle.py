"""Tests of the order of the data: what it depends on, and what it does not."""

import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

NUMBERS = tf.data.Dataset.range(12)


def numbers(dataset):
    return [int(number) for number in dataset.as_numpy_iterator()]


def in_epoch(epoch, dataset):
    with mr.data.in_epoch(epoch):
        return numbers(dataset)


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own():
    train = mr.data.epoch_shuffle(NUMBERS, seed=3)
    orders = [in_epoch(epoch, train) for epoch in range(20)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len(set(map(tuple, orders))) == 20


def test_the_order_depends_on_seed_and_epoch_alone():
    train = mr.data.epoch_shuffle(NUMBERS, seed=3)
    expected = [in_epoch(epoch, train) for epoch in range(3)]
    for _ in range(2):
        numbers(train)
    tf.random.set_seed(9)
    again = mr.data.epoch_shuffle(NUMBERS, seed=3)
    assert [in_epoch(epoch, again) for epoch in (2, 0, 1)] == [expected[i] for i in (2, 0, 1)]
    assert in_epoch(0, mr.data.epoch_shuffle(NUMBERS, seed=4)) != expected[0]


def test_another_process_has_the_same_order():
    train = mr.data.epoch_shuffle(NUMBERS, seed=3)
    assert in_epoch(0, train) == [4, 7, 9, 1, 0, 5, 2, 8, 10, 11, 3, 6]
    assert in_epoch(1, train) == [5, 3, 6, 0, 1, 11, 7, 2, 10, 8, 4, 9]


def test_without_an_epoch_each_iteration_is_the_next_one():
    train, other = (mr.data.epoch_shuffle(NUMBERS, seed=3) for _ in range(2))
    expected = [in_epoch(epoch, other) for epoch in range(2)]
    assert [numbers(train) for _ in range(2)] == expected


def test_all_orders_are_equally_likely():
    train = mr.data.epoch_shuffle(tf.data.Dataset.range(3), seed=0)
    counts = {}
    for epoch in range(60):
        order = tuple(in_epoch(epoch, train))
        counts[order] = counts.get(order, 0) + 1
    # 60 throws of a fair die of six: the statistic is above 20.5 once in a thousand times.
    assert len(counts) == 6
    assert sum((count - 10) ** 2 / 10 for count in counts.values()) < 20.5


def test_buffer_size_bounds_how_far_ahead_a_sample_is_drawn():
    order = in_epoch(0, mr.data.epoch_shuffle(NUMBERS, seed=3, buffer_size=3))
    assert sorted(order) == list(range(12))
    assert order != list(range(12))
    assert all(number <= place + 2 for place, number in enumerate(order))


def test_the_size_is_known_and_so_are_the_shapes():
    dataset = tf.data.Dataset.from_tensor_slices((np.zeros((10, 2)), np.arange(10)))
    train = mr.data.epoch_shuffle(dataset, seed=0)
    assert int(train.cardinality()) == 10
    assert int(train.batch(4).cardinality()) == 3
    assert train.element_spec == dataset.element_spec


def test_options_of_the_dataset_stay():
    options = tf.data.Options()
    options.threading.private_threadpool_size = 3
    train = mr.data.epoch_shuffle(NUMBERS.with_options(options), seed=0)
    assert train.options().threading.private_threadpool_size == 3


def test_ragged_samples():
    dataset = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [2, 3], [4, 5, 6]]))
    train = mr.data.epoch_shuffle(dataset, seed=0)
    assert sorted(len(row) for row in train) == [1, 2, 3]


def test_two_replicas_share_the_order(two_replicas):
    train = mr.data.epoch_shuffle(NUMBERS, seed=3)
    expected = in_epoch(1, train)
    distributed = two_replicas.experimental_distribute_dataset(train.batch(4))
    with mr.data.in_epoch(1):
        parts = [two_replicas.experimental_local_results(batch) for batch in distributed]
    assert [int(n) for batch in parts for part in batch for n in part] == expected


def augmented(seed, x, y):
    return x + tf.random.stateless_uniform((), seed), y


def test_augmentation_has_a_seed_for_each_place_of_each_epoch():
    dataset = tf.data.Dataset.from_tensor_slices((np.zeros(6, "float32"), np.arange(6)))
    train, other = (mr.data.epoch_shuffle(dataset, seed=3, augment=augmented) for _ in range(2))

    def epoch(number, of):
        with mr.data.in_epoch(number):
            return [(float(x), int(y)) for x, y in of.as_numpy_iterator()]

    first, second = epoch(0, train), epoch(1, train)
    assert len({x for x, _ in first + second}) == 12
    assert epoch(0, other) == first
    assert epoch(1, other) == second
    # Augmentation takes nothing from the order, and goes with the place.
    plain = mr.data.epoch_shuffle(dataset, seed=3)
    assert [y for _, y in first] == in_epoch(0, plain.map(lambda x, y: y))


@pytest.mark.parametrize("sample", [np.zeros(4), {"a": np.zeros(4), "b": np.ones(4)}])
def test_augmentation_of_samples_without_labels(sample):
    dataset = tf.data.Dataset.from_tensor_slices(sample)
    train = mr.data.epoch_shuffle(dataset, seed=3, augment=lambda seed, x: (seed, x))
    seed, x = next(iter(train))
    assert (seed.dtype, seed.shape) == (tf.int32, (2,))
    tf.nest.assert_same_structure(x, sample)


def test_with_index_is_to_be_applied_before():
    train = mr.data.epoch_shuffle(mr.data.with_index(NUMBERS), seed=0)
    assert all(int(x["inputs"]) == int(x["sample_index"]) for x in train)
    with pytest.raises(ValueError, match="reshuffled"):
        mr.data.with_index(mr.data.epoch_shuffle(NUMBERS, seed=0))


@pytest.mark.parametrize(
    ("dataset", "arguments", "error", "message"),
    [
        ([1, 2], {}, TypeError, "takes a tf.data.Dataset.*Received: list"),
        (NUMBERS, {"seed": -1}, ValueError, "seed must be an integer of at least 0.*seed=-1"),
        (NUMBERS, {"seed": None}, ValueError, "seed must be .*seed=None"),
        (NUMBERS, {"buffer_size": 0}, ValueError, "buffer_size must be .*buffer_size=0"),
        (NUMBERS.repeat(), {}, ValueError, "does not end"),
        (NUMBERS.filter(lambda n: n > 3), {}, ValueError, "needs buffer_size= .*unknown size"),
        (NUMBERS.shuffle(3), {}, ValueError, "order that stays"),
    ],
)
def test_errors(dataset, arguments, error, message):
    with pytest.raises(error, match=message):
        mr.data.epoch_shuffle(dataset, **{"seed": 0, **arguments})


def test_unknown_size_with_a_buffer():
    train = mr.data.epoch_shuffle(NUMBERS.filter(lambda n: n > 3), seed=0, buffer_size=12)
    assert sorted(in_epoch(0, train)) == list(range(4, 12))
