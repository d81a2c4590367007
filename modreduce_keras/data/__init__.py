"""Data: datasets, the index and the order of samples, and stored teacher outputs."""

from modreduce_keras.data.cifar import CIFAR100_MEAN, CIFAR100_STD, cifar100
from modreduce_keras.data.deep_inversion import deep_inversion
from modreduce_keras.data.epoch_shuffle import epoch_shuffle
from modreduce_keras.data.epochs import in_epoch
from modreduce_keras.data.generated import generated
from modreduce_keras.data.index import with_index
from modreduce_keras.data.outputs_only import TeacherOutputs
from modreduce_keras.data.sample import SAMPLE_CLASSES, load_sample
from modreduce_keras.data.sampled import noise, sampled
from modreduce_keras.data.teacher_cache import TeacherCache

__all__ = [
    "load_sample",
    "SAMPLE_CLASSES",
    "cifar100",
    "CIFAR100_MEAN",
    "CIFAR100_STD",
    "deep_inversion",
    "with_index",
    "epoch_shuffle",
    "in_epoch",
    "noise",
    "sampled",
    "TeacherCache",
    "TeacherOutputs",
    "generated",
]


def __dir__() -> list[str]:
    return __all__
