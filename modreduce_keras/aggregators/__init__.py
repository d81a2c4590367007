"""Aggregators: layers from the peers' outputs to the targets they teach each other with."""

from functools import partial

from modreduce_keras import registry
from modreduce_keras.aggregators.base import Aggregator

_aggregators = registry.collect(__name__, __path__, "aggregator")
globals().update(_aggregators)

get = partial(registry.get, "aggregator", base=Aggregator)

__all__ = ["Aggregator", *_aggregators, "get"]
