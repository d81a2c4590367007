"""Program for test_distribution: trains with one and with two replicas and compares.

A collective that fails poisons its process, so the first distiller that fails ends it. The strategy
is one for all, because a second one would number its collective operations anew.
Usage: python two_replicas.py NAME ..., of `distributed_training.BUILDERS`.
"""

import sys

import distributed_training as training
import tensorflow as tf


def compare(name: str, replicated: tf.distribute.Strategy, *examples: int) -> None:
    data = [training.dataset(number, name) for number in examples]
    one = training.train(name, tf.distribute.OneDeviceStrategy("CPU:0"), *data)
    two = training.train(name, replicated, *data)
    training.assert_same(one, two)


if __name__ == "__main__":
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in sys.argv[1:]:
        compare(name, strategy, 13, 9)
        print(name, flush=True)
