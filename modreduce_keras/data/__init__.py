"""Data: the embedded sample that needs no download, the index of every sample, and their order."""

from modreduce_keras.data.cifar import CIFAR100_MEAN, CIFAR100_STD, cifar100
from modreduce_keras.data.epoch_shuffle import epoch_shuffle
from modreduce_keras.data.index import with_index
from modreduce_keras.data.sample import SAMPLE_CLASSES, load_sample

__all__ = [
    "load_sample",
    "SAMPLE_CLASSES",
    "cifar100",
    "CIFAR100_MEAN",
    "CIFAR100_STD",
    "with_index",
    "epoch_shuffle",
]
