"""Program for test_distribution: trains with one and with two replicas and compares.

A collective that fails poisons its process, so each distiller is compared in one of its own.
Usage: python two_replicas.py (offline | modreduce | staged)
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import modreduce_keras as mr


def train(build, strategy, data, epochs=2):
    """Returns the logs and the weights after training under a strategy."""
    keras.utils.set_random_seed(5)
    with strategy.scope():
        distiller = build()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    stage = {}
    if any(one.pretrains for one in distiller.taught()):
        # Outside of the scope, as fit is; and fit insists on it under every strategy.
        try:
            distiller.fit(data, verbose=0)
            raise AssertionError("fit ran without the stage before it")
        except ValueError as error:
            assert "must be trained in a stage" in str(error), error
        stage = distiller.pretrain(data, optimizer=keras.optimizers.SGD(0.05), verbose=0).history
    history = distiller.fit(
        data, epochs=epochs, validation_data=data, shuffle=False, verbose=0
    ).history
    assert distiller.get_config()["supervised_weight"] == 1.0
    history |= {f"stage/{name}": values for name, values in stage.items()}
    return history, [variable.numpy() for variable in distiller.variables]


def dense_net(width, **arguments):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(
        width, activation="tanh", kernel_regularizer="l2", name="hidden", **arguments
    )(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


def offline():
    hint = mr.Feature("hint", at="hidden", adapter="linear_embedding", weight=1.0)
    return mr.Distiller(dense_net(4), dense_net(7), [mr.Response(), hint])


def staged():
    hint = mr.Feature("hint", at="hidden", adapter="linear_embedding", weight=1.0, staged=True)
    return mr.Distiller(dense_net(4), dense_net(7), [mr.Response(), hint])


def modreduce():
    names = ("response", "feature")
    return mr.ModReduce(
        dense_net(7),
        {name: dense_net(4) for name in names},
        knowledge={name: [mr.Response()] for name in names},
        online_weight=mr.schedules.Linear(0.1, 0.6, steps=4),
    )


def compare(build, examples):
    """Batches of 8: the last one has 8, 5 or 1 examples, so one shard is full, uneven or empty."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(examples, 6)).astype("float32")
    weights = rng.uniform(size=examples).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(examples) % 3, weights)).batch(8)
    one_logs, one = train(build, tf.distribute.OneDeviceStrategy("CPU:0"), data)
    two_logs, two = train(build, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), data)
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_equal(set(one_logs), set(two_logs))
    for name, values in one_logs.items():
        np.testing.assert_allclose(two_logs[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


if __name__ == "__main__":
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    for examples in (16, 13, 9):
        builders = {"offline": offline, "modreduce": modreduce, "staged": staged}
        compare(builders[sys.argv[1]], examples)
