"""Compression: students with fewer weights, or fewer different ones, under any distiller."""

from modreduce_keras.compression.channels import prune_channels
from modreduce_keras.compression.clustering import cluster, gzipped_size
from modreduce_keras.compression.pruning import prune, strip

__all__ = ["cluster", "gzipped_size", "prune", "prune_channels", "strip"]


def __dir__() -> list[str]:
    return __all__
