"""Program for test_distribution: trains with one and with two replicas and compares.

A collective that fails poisons its process, so each distiller is compared in one of its own.
Usage: python two_replicas.py NAME, one of `distributed_training.BUILDERS`.
"""

import sys

import distributed_training as training
import tensorflow as tf


def compare(name: str, *examples: int) -> None:
    data = [training.dataset(number, name) for number in examples]
    one = training.train(name, tf.distribute.OneDeviceStrategy("CPU:0"), *data)
    two = training.train(name, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), *data)
    training.assert_same(one, two)


if __name__ == "__main__":
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    compare(sys.argv[1], 13, 9)
