"""Tests of data that a function draws: what they depend on, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr


def read(dataset, epoch=0):
    with mr.data.in_epoch(epoch):
        return np.stack([batch.numpy() for batch in dataset])


def test_noise_depends_on_seed_epoch_and_step_alone():
    dataset = mr.data.noise((3,), batch_size=4, steps=5, seed=7)
    first, second = read(dataset), read(dataset, 1)
    assert first.shape == (5, 4, 3)
    assert len({batch.tobytes() for batch in [*first, *second]}) == 10
    tf.random.set_seed(1)
    again = mr.data.noise((3,), batch_size=4, steps=5, seed=7)
    np.testing.assert_array_equal(read(again, 1), second)
    # A longer epoch begins alike.
    longer = read(mr.data.noise((3,), batch_size=4, steps=8, seed=7))
    np.testing.assert_array_equal(longer[:5], first)
    assert not np.array_equal(read(mr.data.noise((3,), batch_size=4, steps=5, seed=8)), first)


def test_noise_is_normal():
    values = read(mr.data.noise((20, 20), batch_size=50, steps=2, mean=3.0, deviation=0.5))
    assert values.mean() == pytest.approx(3.0, abs=0.01)
    assert values.std() == pytest.approx(0.5, abs=0.01)
    assert (np.abs(values - 3.0) < 0.5).mean() == pytest.approx(0.6827, abs=0.01)


def test_a_function_draws_what_a_student_is_taught_on():
    def sample(seed, count):
        ages = tf.random.stateless_uniform((count, 1), seed, 18.0, 65.0)
        return {"age": ages, "code": tf.random.stateless_uniform((count,), seed, 0, 9, tf.int32)}

    dataset = mr.data.sampled(sample, batch_size=3, steps=2, seed=1)
    assert dataset.cardinality() == 2
    spec = dataset.element_spec
    assert {name: tuple(one.shape) for name, one in spec.items()} == {"age": (3, 1), "code": (3,)}

    def net():
        inputs = {name: keras.Input(shape, name=name) for name, shape in (("age", (1,)),)}
        return keras.Model(inputs, keras.layers.Dense(3)(inputs["age"]))

    distiller = mr.Distiller(student=net(), teacher=net(), knowledge="kd")
    distiller.compile("sgd", run_eagerly=True)
    ages = mr.data.sampled(lambda *given: {"age": sample(*given)["age"]}, batch_size=3, steps=2)
    assert list(distiller.fit(ages, verbose=0, shuffle=False).history) == ["kd", "loss"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sample": np.zeros(3)}, TypeError, r"sample\(seed, count\)"),
        ({"steps": 0}, ValueError, "steps must be a positive integer"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be a positive integer"),
        ({"seed": 2**63}, ValueError, r"below 2\*\*63"),
        ({"sample": lambda seed, count: tf.zeros((2, 5))}, ValueError, r"\(64, \.\.\.\).*\(2, 5\)"),
        (
            {"sample": lambda *_: tf.numpy_function(lambda: np.zeros((64, 1)), [], tf.float64)},
            ValueError,
            r"tf\.ensure_shape\(inputs, \(count, \.\.\.\)\)",
        ),
    ],
)
def test_what_is_wrong_is_said(arguments, error, message):
    given = {"sample": lambda seed, count: tf.zeros((count, 1)), "steps": 1, **arguments}
    with pytest.raises(error, match=message):
        mr.data.sampled(given.pop("sample"), **given)


def test_noise_refuses_no_deviation():
    with pytest.raises(ValueError, match="deviation must be a finite number above 0"):
        mr.data.noise((3,), steps=1, deviation=0.0)
    with pytest.raises(ValueError, match="shape must be the shape of one sample"):
        mr.data.noise((), steps=1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed, shape: np.random.default_rng(0).normal(size=shape),
        lambda seed, shape: tf.constant(np.random.default_rng(0).normal(size=shape)),
        lambda seed, shape: tf.random.normal(shape),
        lambda seed, shape: tf.random.stateless_normal(shape, [1, 2]),
    ],
)
def test_draws_that_ignore_their_seed_are_refused(draw):
    with pytest.raises(ValueError, match=r"sample must draw by the seed.*stateless_uniform"):
        mr.data.sampled(lambda seed, count: {"x": draw(seed, (count, 2))}, steps=1)
    data = tf.data.Dataset.range(4)
    with pytest.raises(
        ValueError, match=r"augment must draw by .*stateless_random_flip.*into Dataset.map"
    ):
        mr.data.epoch_shuffle(data, seed=0, augment=lambda seed, x: (x, draw(seed, (2,))))


def test_draws_of_numpy_and_in_functions_are_taken():
    def of_numpy(seed):
        return np.random.default_rng(seed).normal(size=(4, 1)).astype("float32")

    def sample(seed, count):
        drawn = tf.ensure_shape(tf.numpy_function(of_numpy, [seed], tf.float32), (count, 1))
        return {"numpy": drawn, "ones": tf.ones((count, 1))}

    first, second = mr.data.sampled(sample, batch_size=4, steps=2)
    assert not np.array_equal(first["numpy"], second["numpy"])
    normal = tf.function(lambda seed, count: tf.random.stateless_normal((count, 1), seed))
    assert len({float(one[0, 0]) for one in mr.data.sampled(normal, steps=3)}) == 3
