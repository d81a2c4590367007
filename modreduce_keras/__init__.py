"""modreduce_keras: knowledge distillation for Keras 3 and TensorFlow."""

# Written by `make generate` from the registry.

from typing import TYPE_CHECKING

from modreduce_keras import (
    adapters,
    aggregators,
    callbacks,
    compression,
    data,
    distribute,
    evaluation,
    export,
    losses,
    metrics,
    models,
    schedules,
)
from modreduce_keras._version import __version__
from modreduce_keras.compression import cluster, prune, prune_channels, strip
from modreduce_keras.distillers import (
    BaseDistiller,
    DataFreeDistiller,
    Distiller,
    EarlyExit,
    MeanTeacher,
    ModReduce,
    NonFiniteError,
    PeerDistiller,
    SelfDistiller,
    TeacherAssistantChain,
    TemporalEnsembling,
)
from modreduce_keras.knobs import Knob
from modreduce_keras.knowledge import Feature, Knowledge, Relation, Response
from modreduce_keras.models import quantize_aware
from modreduce_keras.registry import register
from modreduce_keras.taps import TapReader

if TYPE_CHECKING:
    from modreduce_keras import tuning
    from modreduce_keras.reporting import report

__all__ = [
    "BaseDistiller",
    "DataFreeDistiller",
    "Distiller",
    "EarlyExit",
    "Feature",
    "Knob",
    "Knowledge",
    "MeanTeacher",
    "ModReduce",
    "NonFiniteError",
    "PeerDistiller",
    "Relation",
    "Response",
    "SelfDistiller",
    "TapReader",
    "TeacherAssistantChain",
    "TemporalEnsembling",
    "__version__",
    "adapters",
    "aggregators",
    "callbacks",
    "cluster",
    "compression",
    "data",
    "distribute",
    "evaluation",
    "export",
    "losses",
    "metrics",
    "models",
    "prune",
    "prune_channels",
    "quantize_aware",
    "register",
    "report",
    "schedules",
    "strip",
    "tuning",
]


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:

    def __getattr__(name):
        # Both are imported by those who use them only: KerasTuner and drawings take a while.
        from importlib import import_module

        if name == "tuning":
            return import_module("modreduce_keras.tuning")
        if name == "report":
            return import_module("modreduce_keras.reporting").report
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
