"""Adapters: layers that make two features comparable and own every weight a method needs."""

from functools import partial

from modreduce_keras import registry
from modreduce_keras.adapters.base import Adapter

_adapters = registry.collect(__name__, __path__, "adapter")
globals().update(_adapters)

get = partial(registry.get, "adapter", base=Adapter)

__all__ = ["Adapter", *_adapters, "get"]
