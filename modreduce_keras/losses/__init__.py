"""Distillation losses: pure functions of teacher and student tensors, one value per sample."""

from functools import partial

from modreduce_keras import registry
from modreduce_keras.losses.base import Loss

_losses = registry.collect(__name__, __path__, "loss")
globals().update(_losses)

get = partial(registry.get, "loss", base=Loss)

__all__ = ["Loss", *_losses, "get"]
