"""Distillation losses: pure functions of teacher and student tensors, one value per sample."""

# Written by `make generate` from the registry.

from modreduce_keras import registry as _registry
from modreduce_keras.losses.ab import AB
from modreduce_keras.losses.at import AttentionTransfer
from modreduce_keras.losses.base import Loss
from modreduce_keras.losses.binary_kd import BinaryKD
from modreduce_keras.losses.catkd import CATKD
from modreduce_keras.losses.cc import CC
from modreduce_keras.losses.cka import CKA
from modreduce_keras.losses.confidence_penalty import ConfidencePenalty
from modreduce_keras.losses.cosine import CosineDistance
from modreduce_keras.losses.crd import CRD
from modreduce_keras.losses.ctkd import CTKD
from modreduce_keras.losses.cwd import CWD
from modreduce_keras.losses.dino import DINO
from modreduce_keras.losses.dist import DIST
from modreduce_keras.losses.dkd import DKD
from modreduce_keras.losses.fgd import FGD
from modreduce_keras.losses.fgd_global import FGDGlobal
from modreduce_keras.losses.fgfi import FGFI
from modreduce_keras.losses.fsp import FSP
from modreduce_keras.losses.ft import FactorTransfer
from modreduce_keras.losses.gaussian_kd import GaussianKD
from modreduce_keras.losses.gkd import GKD
from modreduce_keras.losses.hint import Hint
from modreduce_keras.losses.ickd import ICKD
from modreduce_keras.losses.ifvd import IFVD
from modreduce_keras.losses.irg import IRG
from modreduce_keras.losses.kd import KD
from modreduce_keras.losses.listwise import Listwise
from modreduce_keras.losses.logit_l1 import LogitL1
from modreduce_keras.losses.logit_mse import LogitMSE
from modreduce_keras.losses.lsp import LSP
from modreduce_keras.losses.margin_mse import MarginMSE
from modreduce_keras.losses.mgd import MGD
from modreduce_keras.losses.mhgd import MHGD
from modreduce_keras.losses.minilm_attention import MiniLMAttention
from modreduce_keras.losses.minilm_relation import MiniLMRelation
from modreduce_keras.losses.multi_level import MultiLevel
from modreduce_keras.losses.nkd import NKD
from modreduce_keras.losses.nst import NST
from modreduce_keras.losses.ofd import OFD
from modreduce_keras.losses.pairwise import Pairwise
from modreduce_keras.losses.pkd import PKD
from modreduce_keras.losses.pkt import PKT
from modreduce_keras.losses.reverse_kl import ReverseKL
from modreduce_keras.losses.reviewkd import ReviewKD
from modreduce_keras.losses.rkd_angle import RKDAngle
from modreduce_keras.losses.rkd_distance import RKDDistance
from modreduce_keras.losses.semckd import SemCKD
from modreduce_keras.losses.shake import SHAKE
from modreduce_keras.losses.simkd import SimKD
from modreduce_keras.losses.skew_kl import SkewKL
from modreduce_keras.losses.sp import SimilarityPreserving
from modreduce_keras.losses.srrl import SRRL
from modreduce_keras.losses.teacher_bounded import TeacherBounded
from modreduce_keras.losses.teacher_free import TeacherFree
from modreduce_keras.losses.tinybert_attention import TinyBERTAttention
from modreduce_keras.losses.vid import VID
from modreduce_keras.losses.vkd import VkD

__all__ = [
    "Loss",
    "AB",
    "AttentionTransfer",
    "BinaryKD",
    "CATKD",
    "CC",
    "CKA",
    "ConfidencePenalty",
    "CosineDistance",
    "CRD",
    "CTKD",
    "CWD",
    "DINO",
    "DIST",
    "DKD",
    "FGD",
    "FGDGlobal",
    "FGFI",
    "FSP",
    "FactorTransfer",
    "GaussianKD",
    "GKD",
    "Hint",
    "ICKD",
    "IFVD",
    "IRG",
    "KD",
    "Listwise",
    "LogitL1",
    "LogitMSE",
    "LSP",
    "MarginMSE",
    "MGD",
    "MHGD",
    "MiniLMAttention",
    "MiniLMRelation",
    "MultiLevel",
    "NKD",
    "NST",
    "OFD",
    "Pairwise",
    "PKD",
    "PKT",
    "ReverseKL",
    "ReviewKD",
    "RKDAngle",
    "RKDDistance",
    "SemCKD",
    "SHAKE",
    "SimKD",
    "SkewKL",
    "SimilarityPreserving",
    "SRRL",
    "TeacherBounded",
    "TeacherFree",
    "TinyBERTAttention",
    "VID",
    "VkD",
    "get",
]

get = _registry.Getter("loss", Loss)


def __dir__() -> list[str]:
    return __all__
