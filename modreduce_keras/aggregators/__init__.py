"""Aggregators: layers that turn the peers' outputs into targets for their online losses."""

# Written by `make generate` from the registry.

from typing import Any as _Any

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


def get(identifier: str | dict[str, _Any] | Aggregator, **arguments: _Any) -> Aggregator:
    """Returns an aggregator from its identifier, its config, or itself.

    Args:
        identifier: An aggregator (returned as it is), its config, or a registered identifier.
        **arguments: Constructor arguments, only together with an identifier.

    Raises:
        ValueError: If the identifier is unknown, or arguments come with an instance or config.
        TypeError: If it is no aggregator.
    """
    return _registry.get("aggregator", identifier, base=Aggregator, **arguments)


def __dir__() -> list[str]:
    return __all__
