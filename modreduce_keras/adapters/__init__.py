"""Adapters: layers that make two features comparable and own every weight a method needs."""

# Written by `make generate` from the registry.

from modreduce_keras import registry as _registry
from modreduce_keras.adapters.attention_heads import AttentionHeads
from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.centered_projection import CenteredProjection
from modreduce_keras.adapters.channel_projector import ChannelProjector
from modreduce_keras.adapters.class_attention import ClassAttention
from modreduce_keras.adapters.contrastive_memory import ContrastiveMemory
from modreduce_keras.adapters.contrastive_queue import ContrastiveQueue
from modreduce_keras.adapters.conv_regressor import ConvRegressor
from modreduce_keras.adapters.factors import Factors
from modreduce_keras.adapters.flow_channels import FlowChannels
from modreduce_keras.adapters.global_context import GlobalContext
from modreduce_keras.adapters.layer_attention import LayerAttention
from modreduce_keras.adapters.learnt_temperature import LearntTemperature
from modreduce_keras.adapters.linear_embedding import LinearEmbedding
from modreduce_keras.adapters.margin_connector import MarginConnector
from modreduce_keras.adapters.masked_generator import MaskedGenerator
from modreduce_keras.adapters.orthogonal_projector import OrthogonalProjector
from modreduce_keras.adapters.paired_embedding import PairedEmbedding
from modreduce_keras.adapters.review_fusion import ReviewFusion
from modreduce_keras.adapters.shadow_head import ShadowHead
from modreduce_keras.adapters.softmax_regressor import SoftmaxRegressor
from modreduce_keras.adapters.token_projection import TokenProjection
from modreduce_keras.adapters.variational_regressor import VariationalRegressor

__all__ = [
    "Adapter",
    "AttentionHeads",
    "CenteredProjection",
    "ChannelProjector",
    "ClassAttention",
    "ContrastiveMemory",
    "ContrastiveQueue",
    "ConvRegressor",
    "Factors",
    "FlowChannels",
    "GlobalContext",
    "LayerAttention",
    "LearntTemperature",
    "LinearEmbedding",
    "MarginConnector",
    "MaskedGenerator",
    "OrthogonalProjector",
    "PairedEmbedding",
    "ReviewFusion",
    "ShadowHead",
    "SoftmaxRegressor",
    "TokenProjection",
    "VariationalRegressor",
    "get",
]

get = _registry.Getter("adapter", Adapter)


def __dir__() -> list[str]:
    return __all__
