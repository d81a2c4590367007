"""Distillation losses: pure functions of teacher and student tensors, one value per sample."""

# Written by `make generate` from the registry.

from typing import Any as _Any

from modreduce_keras import registry as _registry
from modreduce_keras.losses.base import Loss
from modreduce_keras.losses.binary import BinaryKD
from modreduce_keras.losses.boundaries import AB, OFD
from modreduce_keras.losses.channels import ICKD
from modreduce_keras.losses.classifier import CATKD, SRRL, SimKD
from modreduce_keras.losses.congruence import CC
from modreduce_keras.losses.contrastive import CRD
from modreduce_keras.losses.correlation import CKA, DIST
from modreduce_keras.losses.cross_layer import ReviewKD, SemCKD
from modreduce_keras.losses.curriculum import CTKD
from modreduce_keras.losses.decoupled import DKD, NKD
from modreduce_keras.losses.feature import Hint
from modreduce_keras.losses.graph_attention import MHGD
from modreduce_keras.losses.local_structure import LSP
from modreduce_keras.losses.multi_level import MultiLevel
from modreduce_keras.losses.orthogonal import VkD
from modreduce_keras.losses.regeneration import MGD
from modreduce_keras.losses.regularization import ConfidencePenalty, TeacherFree
from modreduce_keras.losses.relation_graph import IRG
from modreduce_keras.losses.relational import RKDAngle, RKDDistance
from modreduce_keras.losses.response import KD, LogitL1, LogitMSE
from modreduce_keras.losses.shadow import SHAKE
from modreduce_keras.losses.similarity import PKT, SimilarityPreserving
from modreduce_keras.losses.statistics import FSP, NST, AttentionTransfer, FactorTransfer
from modreduce_keras.losses.variational import VID

__all__ = [
    "Loss",
    "AB",
    "AttentionTransfer",
    "BinaryKD",
    "CATKD",
    "CC",
    "CKA",
    "ConfidencePenalty",
    "CRD",
    "CTKD",
    "DIST",
    "DKD",
    "FSP",
    "FactorTransfer",
    "Hint",
    "ICKD",
    "IRG",
    "KD",
    "LogitL1",
    "LogitMSE",
    "LSP",
    "MGD",
    "MHGD",
    "MultiLevel",
    "NKD",
    "NST",
    "OFD",
    "PKT",
    "ReviewKD",
    "RKDAngle",
    "RKDDistance",
    "SemCKD",
    "SHAKE",
    "SimKD",
    "SimilarityPreserving",
    "SRRL",
    "TeacherFree",
    "VID",
    "VkD",
    "get",
]


def get(identifier: str | dict[str, _Any] | Loss, **arguments: _Any) -> Loss:
    """Returns a loss from its identifier, its config, or itself.

    Args:
        identifier: A loss (returned as it is), its config, or a registered identifier.
        **arguments: Constructor arguments, only together with an identifier.

    Raises:
        ValueError: If the identifier is unknown, or arguments come with an instance or config.
        TypeError: If it is no loss.
    """
    return _registry.get("loss", identifier, base=Loss, **arguments)


def __dir__() -> list[str]:
    return __all__
