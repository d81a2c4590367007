"""Aggregators: layers that turn the peers' outputs into targets for their online losses."""

# Written by `make generate` from the registry.

from modreduce_keras import registry as _registry
from modreduce_keras.aggregators.base import Aggregator
from modreduce_keras.aggregators.codistillation import Codistillation
from modreduce_keras.aggregators.fully_connected import FullyConnected
from modreduce_keras.aggregators.kdcl import KDCL
from modreduce_keras.aggregators.leave_one_out_mean import LeaveOneOutMean
from modreduce_keras.aggregators.mean import Mean
from modreduce_keras.aggregators.mutual import Mutual
from modreduce_keras.aggregators.okddip import OKDDip
from modreduce_keras.aggregators.one import ONE
from modreduce_keras.aggregators.pcl import PCL
from modreduce_keras.aggregators.weighted_average import WeightedAverage

__all__ = [
    "Aggregator",
    "Codistillation",
    "FullyConnected",
    "KDCL",
    "LeaveOneOutMean",
    "Mean",
    "Mutual",
    "OKDDip",
    "ONE",
    "PCL",
    "WeightedAverage",
    "get",
]

get = _registry.Getter("aggregator", Aggregator)


def __dir__() -> list[str]:
    return __all__
