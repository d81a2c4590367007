"""Data: the embedded sample that needs no download, and the index of every sample."""

from modreduce_keras.data.index import with_index
from modreduce_keras.data.sample import SAMPLE_CLASSES, load_sample

__all__ = ["load_sample", "SAMPLE_CLASSES", "with_index"]
