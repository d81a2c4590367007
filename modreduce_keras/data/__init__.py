"""Data: the embedded sample that needs no download; later, tfds pipelines and a teacher cache."""

from modreduce_keras.data.sample import SAMPLE_CLASSES, load_sample

__all__ = ["load_sample", "SAMPLE_CLASSES"]
