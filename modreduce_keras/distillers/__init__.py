"""Distillers: the Keras models that run teacher, students, knowledge and aggregator together."""

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
    "EarlyExit",
    "MeanTeacher",
    "ModReduce",
    "NonFiniteError",
    "PeerDistiller",
    "SelfDistiller",
    "TemporalEnsembling",
]
