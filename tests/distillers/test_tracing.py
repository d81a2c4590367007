"""How often a step is traced: once, with compiled metrics as well."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import modreduce_keras as mr

pytestmark = pytest.mark.graph


class Traced(mr.Distiller):
    """Counts how often its training step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


@pytest.fixture
def traced(net, cross_entropy):
    distiller = Traced(student=net(), teacher=net(name="teacher"), knowledge=[mr.Response("kd")])
    distiller.compile("sgd", cross_entropy, metrics=["accuracy"])
    return distiller


def test_metrics_are_built_before_the_step_of_fit(traced, images, labels):
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4, drop_remainder=True)
    traced.fit(data, verbose=0, shuffle=False)
    assert traced.traces == 1


def test_metrics_are_built_before_a_step_on_a_batch(traced, images, labels):
    traced.train_on_batch(images, labels)
    assert traced.traces == 1


def test_no_batch_of_a_generator_is_lost(traced, images, labels):
    given = []

    def batches():
        for number in range(3):
            given.append(number)
            yield images[:4], labels[:4]

    class Steps(keras.callbacks.Callback):
        count = 0

        def on_train_batch_end(self, batch, logs=None):
            self.count += 1

    steps = Steps()
    traced.fit(batches(), steps_per_epoch=3, verbose=0, shuffle=False, callbacks=[steps])
    assert (steps.count, traced.traces) == (3, 1)
    assert np.isfinite(traced.history.history["accuracy"]).all()
