"""Program for test_replicas: adapters that remember with one and with two replicas.

A collective that fails poisons its process, so the first adapter that fails ends it. The strategy
is one for all, because a second one would number its collective operations anew.
Usage: python two_replicas.py NAME ..., of ADAPTERS.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr

SAMPLES = 16
SMALL = {"units": 3, "temperature": 0.5}


def memory(**arguments):
    return lambda: mr.adapters.ContrastiveMemory(samples=SAMPLES, **SMALL, **arguments)


def queue(**arguments):
    return lambda: mr.adapters.ContrastiveQueue(**SMALL, **arguments)


ADAPTERS = {
    "per_sample": memory(negatives=5),
    "by_rows": memory(negatives=1),
    "shared": memory(negatives=5, sampling="shared"),
    "queue": queue(negatives=5),
    "in_batch": queue(negatives=None),
    "centered": mr.adapters.CenteredProjection,
}


def net(width):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(width, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


def train(adapter, strategy, datasets):
    """Trains a distiller under a strategy and returns the logs and all weights for each data.

    Each training begins with the same state, by one distiller: a new one would be traced anew.
    """
    keras.utils.set_random_seed(5)
    with strategy.scope():
        made = adapter()
        of_crd = not isinstance(made, mr.adapters.CenteredProjection)
        kind, loss = (mr.Relation, "crd") if of_crd else (mr.Feature, mr.losses.DINO())
        knowledge = kind(loss, at="hidden", adapter=made, weight=1.0)
        distiller = mr.Distiller(student=net(4), teacher=net(7), knowledge=[knowledge])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.05), loss)
    state = [*distiller.variables, *distiller.optimizer.variables]
    begin, runs = [variable.numpy() for variable in state], []
    for data in datasets:
        for variable, value in zip(state, begin, strict=True):
            variable.assign(value)
        runs.append(fitted(distiller, strategy, data))
    return runs


def fitted(distiller, strategy, data):
    logs = distiller.fit(data, epochs=2, shuffle=False, verbose=0).history
    weights = {f"{i}: {weight.name}": weight.numpy() for i, weight in enumerate(distiller.weights)}
    if isinstance(strategy, tf.distribute.MirroredStrategy):
        for weight in distiller.weights:
            copies = strategy.experimental_local_results(weight.value)
            assert len(copies) == 2
            np.testing.assert_array_equal(*copies, err_msg=weight.path)
    return logs, weights


def dataset(examples):
    """Batches of 8: the last one has 5 or 1 examples, so one shard is uneven or empty."""
    x = np.random.default_rng(0).normal(size=(examples, 6)).astype("float32")
    samples = tf.data.Dataset.from_tensor_slices((x, np.arange(examples) % 3))
    return mr.data.with_index(samples).batch(8)


def compare(adapter, replicated, *examples):
    data = [dataset(number) for number in examples]
    by_one = train(adapter, tf.distribute.OneDeviceStrategy("CPU:0"), data)
    by_two = train(adapter, replicated, data)
    for (one_logs, one), (two_logs, two) in zip(by_one, by_two, strict=True):
        for name, weight in one.items():
            np.testing.assert_allclose(two[name], weight, atol=1e-6, err_msg=name)
        for name, values in one_logs.items():
            np.testing.assert_allclose(two_logs[name], values, rtol=1e-5, err_msg=name)


if __name__ == "__main__":
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in sys.argv[1:]:
        compare(ADAPTERS[name], strategy, 13, 9)
        print(name, flush=True)
