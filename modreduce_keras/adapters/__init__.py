"""Adapters: layers that make two features comparable and own every weight a method needs."""

# Written by `make generate` from the registry.

from typing import Any as _Any

from modreduce_keras import registry as _registry
from modreduce_keras.adapters.attention_heads import AttentionHeads
from modreduce_keras.adapters.base import Adapter
from modreduce_keras.adapters.classifiers import ClassAttention, SoftmaxRegressor
from modreduce_keras.adapters.embeddings import LinearEmbedding
from modreduce_keras.adapters.factors import Factors
from modreduce_keras.adapters.generators import MaskedGenerator
from modreduce_keras.adapters.layer_attention import LayerAttention
from modreduce_keras.adapters.margins import MarginConnector
from modreduce_keras.adapters.memory import ContrastiveMemory
from modreduce_keras.adapters.orthogonal import OrthogonalProjector
from modreduce_keras.adapters.paired import PairedEmbedding
from modreduce_keras.adapters.projectors import ChannelProjector, FlowChannels
from modreduce_keras.adapters.queue import ContrastiveQueue
from modreduce_keras.adapters.regressors import ConvRegressor
from modreduce_keras.adapters.review_fusion import ReviewFusion
from modreduce_keras.adapters.shadow_head import ShadowHead
from modreduce_keras.adapters.temperature import LearntTemperature
from modreduce_keras.adapters.variational import VariationalRegressor

__all__ = [
    "Adapter",
    "AttentionHeads",
    "ChannelProjector",
    "ClassAttention",
    "ContrastiveMemory",
    "ContrastiveQueue",
    "ConvRegressor",
    "Factors",
    "FlowChannels",
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
    "VariationalRegressor",
    "get",
]


def get(identifier: str | dict[str, _Any] | Adapter, **arguments: _Any) -> Adapter:
    """Returns an adapter from its identifier, its config, or itself.

    Args:
        identifier: An adapter (returned as it is), its config, or a registered identifier.
        **arguments: Constructor arguments, only together with an identifier.

    Raises:
        ValueError: If the identifier is unknown, or arguments come with an instance or config.
        TypeError: If it is no adapter.
    """
    return _registry.get("adapter", identifier, base=Adapter, **arguments)


def __dir__() -> list[str]:
    return __all__
