"""Schedules: step -> value, evaluated inside the graph.

They are Keras learning-rate schedules, so each of them also drives a learning rate, and each of
Keras' own schedules also drives a weight or a temperature. The step is the number of training
steps (batches) done so far; `steps` below is always such a number, for example
`epochs * steps_per_epoch`.
"""

# Written by `make generate` from the registry.

from modreduce_keras import registry as _registry
from modreduce_keras.schedules.base import Schedule
from modreduce_keras.schedules.constant import Constant
from modreduce_keras.schedules.cosine import Cosine
from modreduce_keras.schedules.cut_off import CutOff
from modreduce_keras.schedules.exponential import Exponential
from modreduce_keras.schedules.linear import Linear
from modreduce_keras.schedules.piecewise import Piecewise
from modreduce_keras.schedules.polynomial import Polynomial
from modreduce_keras.schedules.sigmoid_ramp_up import SigmoidRampUp

__all__ = [
    "Schedule",
    "Constant",
    "Cosine",
    "CutOff",
    "Exponential",
    "Linear",
    "Piecewise",
    "Polynomial",
    "SigmoidRampUp",
    "get",
]

get = _registry.Getter("schedule", Schedule)


def __dir__() -> list[str]:
    return __all__
