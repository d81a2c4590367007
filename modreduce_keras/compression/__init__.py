"""Compression: students with fewer weights, or fewer different ones, under any distiller."""

from modreduce_keras.compression.pruning import prune, strip

__all__ = ["prune", "strip"]


def __dir__() -> list[str]:
    return __all__
