"""Distillers: the Keras models that run teacher, students, knowledge and aggregator together."""

from modreduce_keras.distillers.base import BaseDistiller
from modreduce_keras.distillers.modreduce import ModReduce
from modreduce_keras.distillers.offline import Distiller
from modreduce_keras.distillers.peers import PeerDistiller

__all__ = ["BaseDistiller", "Distiller", "ModReduce", "PeerDistiller"]
