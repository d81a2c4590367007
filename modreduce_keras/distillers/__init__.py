"""Distillers: the Keras models that run teacher, students, knowledge and aggregator together."""

# Written by `make generate` from the registry.

from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.consistency import MeanTeacher, TemporalEnsembling
from modreduce_keras.distillers.early_exit import EarlyExit
from modreduce_keras.distillers.guard import NonFiniteError
from modreduce_keras.distillers.modreduce import ModReduce
from modreduce_keras.distillers.offline import Distiller
from modreduce_keras.distillers.peers import PeerDistiller
from modreduce_keras.distillers.self_distiller import SelfDistiller

__all__ = [
    "BaseDistiller",
    "Distiller",
    "MeanTeacher",
    "ModReduce",
    "PeerDistiller",
    "SelfDistiller",
    "TemporalEnsembling",
    "EarlyExit",
    "NonFiniteError",
]


def __dir__() -> list[str]:
    return __all__
