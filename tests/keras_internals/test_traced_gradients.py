"""Custom gradients of traced functions work as long as their graph is there, and no longer."""

import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

import modreduce_keras as mr
from modreduce_keras.keras_internals.traced_gradients import release_unused_graphs


@tf.custom_gradient
def cube(x):
    """Has three times its gradient, so that it is known."""
    return x**3, lambda upstream: upstream * 9.0 * x**2


def registered():
    return {
        name for name in ops.gradient_registry.list() if str(name).startswith("CustomGradient-")
    }


def traced(function):
    return tf.function(function, autograph=False).get_concrete_function(
        tf.TensorSpec((), tf.float32)
    )


def in_another_function(x):
    return tf.function(cube, autograph=False)(x)


def test_a_graph_that_nobody_uses_is_freed_with_its_gradients():
    release_unused_graphs()
    gc.collect()
    before = registered()
    function = traced(cube)
    assert len(registered() - before) == 1
    graph = weakref.ref(function.graph)
    release_unused_graphs()
    gc.collect()
    assert graph() is not None
    assert len(registered() - before) == 1
    del function
    gc.collect()
    assert graph() is None
    assert registered() == before


@pytest.mark.parametrize("function", [cube, in_another_function])
def test_a_graph_in_use_keeps_its_gradients(function):
    concrete = traced(function)
    release_unused_graphs()
    gc.collect()
    x = tf.constant(2.0)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = concrete(x)
        gradient = inner.gradient(y, x)
    assert float(gradient) == 36.0
    assert float(outer.gradient(gradient, x)) == 36.0


def test_models_that_are_dropped_leave_nothing_behind():
    def network():
        dense = keras.layers.Dense(3, activation="silu")
        return keras.Sequential([keras.Input((4,)), dense, keras.layers.Dense(3)])

    def train():
        distiller = mr.Distiller(student=network(), teacher=network())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile("sgd", loss)
        data = np.ones((6, 4), "float32"), np.arange(6) % 3
        distiller.fit(*data, validation_data=data, verbose=0)
        distiller.evaluate(*data, verbose=0)

    def graphs():
        gc.collect()
        return sum(isinstance(one, tf.Graph) for one in gc.get_objects())

    train()
    before, names = graphs(), registered()
    for _ in range(2):
        train()
    assert graphs() == before
    assert registered() == names


@pytest.mark.parametrize("gradient", [lambda op, upstream: upstream, functools.partial(max, 1)])
def test_what_others_register_stays(gradient):
    name = "CustomGradient-of-a-test"
    tf.RegisterGradient(name)(gradient)
    try:
        release_unused_graphs()
        gc.collect()
        assert ops.gradient_registry.lookup(name) is gradient
    finally:
        del ops.gradient_registry._registry[name]


def test_a_garbage_collection_may_come_at_any_time(monkeypatch):
    entries = {f"of a test {index}": {"type": None} for index in range(3000)}
    monkeypatch.setattr(ops.gradient_registry, "_registry", entries)

    class Garbage:
        """Part of a cycle; an entry goes with it."""

        def __init__(self):
            self.me = self
            weakref.finalize(self, entries.pop, "of a test 0")

    gc.collect()
    thresholds = gc.get_threshold()
    try:
        Garbage()
        gc.set_threshold(1000)  # so that it is collected while entries are listed as pairs
        release_unused_graphs()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert len(entries) == 2999
