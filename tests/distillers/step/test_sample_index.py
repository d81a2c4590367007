"""Tests of the sample index: in its range and of integers, eagerly, in a graph and under XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

SAMPLES = 6
X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
Y = np.arange(4) % 3


def net(name=None):
    hidden = [keras.layers.Dense(4, name="hidden"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((5,)), *hidden], name=name)


def contrastive():
    memory = mr.adapters.ContrastiveMemory(samples=SAMPLES, negatives=3, units=4, seed=0)
    crd = mr.Relation("crd", student="hidden", teacher="hidden", adapter=memory)
    return mr.Distiller(
        student=net(), teacher=net(), knowledge=[crd]
    ), lambda: memory.student_bank.numpy()


def ensembling():
    distiller = mr.TemporalEnsembling(net(), samples=SAMPLES)
    return distiller, distiller.predictions.numpy


MAKERS = {"ContrastiveMemory": contrastive, "TemporalEnsembling": ensembling}
WAYS = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "XLA": {"jit_compile": True},
}


def compiled(owner, way):
    distiller, bank = MAKERS[owner]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), loss, **WAYS[way])
    return distiller, bank


def data(index):
    x = {"inputs": X, "sample_index": np.asarray(index)}
    return tf.data.Dataset.from_tensor_slices((x, Y)).batch(4)


WRONG = {
    "negative": np.array([0, -1, 2, 3]),
    "too large": np.array([0, 1, 2, SAMPLES]),
    "another one's in int32": np.array([0, 1, 2, 2**32 + 3]),
    "the sign of int32": np.array([0, 1, 2, 2**31]),
    "unsigned": np.array([0, 1, 2, 2**64 - 1], "uint64"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("owner", MAKERS)
def test_what_lies_outside_is_refused_and_nothing_is_written(owner, way):
    distiller, bank = compiled(owner, way)
    message = f"index must lie from 0 to 5, as {owner} has samples=6: give the number of training"
    before = bank()
    for index in WRONG.values():
        with pytest.raises(ValueError, match=message):
            distiller.fit(data(index), shuffle=False, verbose=0)
        np.testing.assert_array_equal(bank(), before)
    with pytest.raises(ValueError, match=message):
        distiller.train_on_batch({"inputs": X, "sample_index": WRONG["too large"]}, Y)
    np.testing.assert_array_equal(bank(), before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("owner", MAKERS)
def test_floats_are_refused(owner, way):
    distiller, _ = compiled(owner, way)
    with pytest.raises(ValueError, match=r"index must be integers.*index of dtype float32"):
        distiller.fit(data(np.arange(4, dtype="float32")), shuffle=False, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("owner", MAKERS)
def test_every_kind_of_integers_writes_the_same_rows_in_every_way(owner):
    found = []
    for way in WAYS:
        for dtype in ("int64", "uint8") if way == "XLA" else ("int32",):
            keras.utils.set_random_seed(1)
            distiller, bank = compiled(owner, way)
            before = bank()
            distiller.fit(data(np.array([5, 0, 2, 3], dtype)), shuffle=False, verbose=0)
            found.append(bank())
            np.testing.assert_array_equal(found[-1][[1, 4]], before[[1, 4]])
            assert (found[-1][[5, 0, 2, 3]] != before[[5, 0, 2, 3]]).any(axis=1).all()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-6)
