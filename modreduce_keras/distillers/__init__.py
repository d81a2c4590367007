"""Distillers: the Keras models that run teacher, students, knowledge and aggregator together."""

# Written by `make generate` from the registry.

from modreduce_keras.distillers.assistants import TeacherAssistantChain
from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.data_free import DataFreeDistiller
from modreduce_keras.distillers.early_exit import EarlyExit
from modreduce_keras.distillers.generation.methods import DAFL, ZSKT, Generation
from modreduce_keras.distillers.gradients.base import GradientPolicy
from modreduce_keras.distillers.gradients.guard import NonFiniteError
from modreduce_keras.distillers.mean_teacher import MeanTeacher
from modreduce_keras.distillers.modreduce import ModReduce
from modreduce_keras.distillers.offline import Distiller
from modreduce_keras.distillers.peers import PeerDistiller
from modreduce_keras.distillers.self_distiller import SelfDistiller
from modreduce_keras.distillers.step.batch import Batch
from modreduce_keras.distillers.step.forward import Outputs
from modreduce_keras.distillers.step.terms import Term
from modreduce_keras.distillers.temporal_ensembling import TemporalEnsembling

__all__ = [
    "BaseDistiller",
    "DataFreeDistiller",
    "Distiller",
    "MeanTeacher",
    "ModReduce",
    "PeerDistiller",
    "SelfDistiller",
    "TemporalEnsembling",
    "Batch",
    "DAFL",
    "EarlyExit",
    "Generation",
    "GradientPolicy",
    "NonFiniteError",
    "Outputs",
    "TeacherAssistantChain",
    "Term",
    "ZSKT",
]


def __dir__() -> list[str]:
    return __all__
