"""`Resume` warns of data whose order a restart does not repeat, and of no others."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

X, Y = np.ones((8, 2), "float32"), np.ones(8, "float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[2 * index : 2 * index + 2], Y[2 * index : 2 * index + 2]


def samples():
    return tf.data.Dataset.from_tensor_slices((X, Y))


def unseeded():
    tf.random.set_seed(None)
    return samples().shuffle(8, reshuffle_each_iteration=False).batch(2)


DRAWN = {
    "shuffle": lambda: {"x": samples().shuffle(8).batch(2).prefetch(1)},
    "shuffle by a seed, each epoch": lambda: {"x": samples().shuffle(8, seed=3).batch(2)},
    "shuffle without a seed": lambda: {"x": unseeded()},
    "shuffle in a part": lambda: {
        "x": tf.data.Dataset.sample_from_datasets([samples().shuffle(8), samples()]).batch(2)
    },
    "arrays": lambda: {"x": X, "y": Y},
    "PyDataset": lambda: {"x": Batches(), "shuffle": True},
}
REPEATED = {
    "no shuffle": lambda: {"x": samples().batch(2)},
    "epoch_shuffle": lambda: {"x": mr.data.epoch_shuffle(samples(), seed=0).batch(2).prefetch(1)},
    "one order": lambda: {
        "x": samples().shuffle(8, seed=3, reshuffle_each_iteration=False).batch(2)
    },
    "arrays": lambda: {"x": X, "y": Y, "shuffle": False},
    "PyDataset": lambda: {"x": Batches(), "shuffle": False},
}


def warned(folder, arguments):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callbacks = [mr.callbacks.Resume(folder)]
        model.fit(**arguments, verbose=0, callbacks=callbacks)
    own = [one for one in caught if "is resumed" in str(one.message)]
    assert {one.filename for one in own} <= {__file__}
    return [str(one.message) for one in own]


@pytest.mark.parametrize("data", DRAWN)
def test_an_order_of_the_process_is_warned_of(data, tmp_path):
    (message,) = warned(tmp_path, DRAWN[data]())
    of_dataset = "shuffle" in data
    assert ("Dataset.shuffle" in message) == of_dataset
    assert ("shuffle=False" in message) != of_dataset


@pytest.mark.parametrize("data", REPEATED)
def test_an_order_that_is_repeated_is_not(data, tmp_path):
    assert warned(tmp_path, REPEATED[data]()) == []
