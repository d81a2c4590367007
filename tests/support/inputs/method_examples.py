"""What registered methods are called with in tests and fuzzing: shapes and arguments by identifier.

A loss of a family takes what its base class takes; only what differs has a line of its own. So a
new loss, adapter or schedule is called with something sensible before anything is written here.
"""

from typing import Any

from modreduce_keras import losses
from modreduce_keras.losses.attention_base import AttentionLoss
from modreduce_keras.losses.map_base import MapLoss
from modreduce_keras.losses.preactivation_base import PreactivationLoss
from modreduce_keras.losses.relation_base import RelationLoss
from modreduce_keras.losses.response_base import ResponseLoss

LOGITS = ((10,), (10,))

# Shapes without the batch of a valid (teacher, student) pair, or of lists of them.
_FAMILIES = {
    ResponseLoss: LOGITS,
    RelationLoss: ((12,), (8,)),
    PreactivationLoss: ((8, 8, 6), (4, 4, 6)),
    MapLoss: ((4, 4, 6), (8, 8, 3)),
    AttentionLoss: ((2, 4, 4), (2, 4, 4)),
    losses.Loss: ((4, 4, 6), (4, 4, 6)),
}
_LOSSES = {
    "catkd": ((4, 4, 5), (5, 3, 5)),
    "crd": ((9,), (9,)),
    "ctkd": ((10,), [(10,), (1,)]),
    "cwd": ((8, 8, 6), (4, 4, 6)),
    "fgd": ((8, 8, 6), (4, 4, 6)),
    "fgd_global": ((8, 8, 6), (4, 4, 6)),
    "fgfi": ((8, 8, 6), (4, 4, 6)),
    "fsp": ([(4, 4, 3), (2, 2, 5)], [(4, 4, 3), (2, 2, 5)]),
    "gaussian_kd": ((6,), (6,)),
    "ickd": ((8, 8, 6), (4, 4, 6)),
    "irg": ([(6,), (6,)], [(6,), (6,)]),
    "mgd": ((8, 8, 6), (4, 4, 6)),
    "mhgd": ([(2, 5), (2, 5)], [(2, 5), (2, 5)]),
    "minilm_relation": ((4, 2, 5), (4, 2, 3)),
    "pkd": ((8, 8, 6), (4, 4, 6)),
    "reviewkd": ([(5, 5, 3), (3, 3, 4), (1, 1, 6)], [(5, 5, 3), (3, 3, 4), (1, 1, 6)]),
    "semckd": (
        [(4, 4, 3), (2, 2, 5), (2, 2, 3), (2, 2, 5)],
        [(4, 4, 3), (2, 2, 5), (2, 2, 3), (2, 2, 5), (2, 2)],
    ),
    "shake": ((5,), [(5,), (5,)]),
    "simkd": ((4, 4, 6), (2, 2, 6)),
    "srrl": ([(6,), (5,)], [(6,), (5,)]),
    "vid": ((8, 8, 6), [(4, 4, 6), (6,)]),
    "vkd": ((6,), (6,)),
}

NOT_ZERO_AT_TEACHER = {
    "ab",
    "confidence_penalty",
    "crd",
    "dino",
    "nkd",
    "shake",
    "teacher_free",
    "vid",
    "vkd",
}
"""Losses that are not zero and flat where the student equals the teacher."""

# Shapes without the batch of valid (student, teacher) pairs.
_ADAPTERS = {
    "attention_heads": [
        ([(4, 4, 3), (2, 2, 5)], [(4, 4, 4), (2, 2, 6)]),
        ([(4,), (3, 5), (6,)], [(3,), (2, 2, 6), (6,)]),
    ],
    "centered_projection": [((5, 4), (5, 6)), ((4,), (6,))],
    "channel_projector": [((4, 4, 4), (4, 4, 6)), ((5, 4), (5, 6))],
    "class_attention": [((4, 4, 6), (4, 4, 8)), ((5, 5, 6), (3, 3, 8))],
    "conv_regressor": [
        ((8, 8, 4), (4, 4, 6)),
        ((4, 4, 4), (8, 8, 6)),
        ((6, 6, 4), (4, 4, 6)),
        ((7, 4), (7, 6)),
        ((4, 4), (8, 6)),
    ],
    "factors": [((8, 8, 4), (4, 4, 6)), ((4, 4, 3), (4, 4, 5))],
    "flow_channels": [
        ([(8, 8, 2), (4, 4, 5)], [(8, 8, 3), (4, 4, 5)]),
        ([(8, 8, 3), (4, 4, 4)], [(8, 8, 3), (4, 4, 5)]),
    ],
    "global_context": [
        ((8, 8, 4), (4, 4, 6)),
        ((4, 4, 6), (8, 8, 6)),
        ((5, 4), (5, 6)),
    ],
    "layer_attention": [
        ([(4, 4, 3), (2, 2, 4)], [(4, 4, 5), (2, 2, 6), (2, 2, 3)]),
        ([(2, 2, 4)], [(4, 4, 5), (2, 2, 3)]),
    ],
    "learnt_temperature": [((10,), (10,)), ((4, 3, 10), (4, 3, 10))],
    "margin_connector": [
        ((4, 4, 4), (4, 4, 6)),
        ([(8, 8, 2), (4, 4, 3)], [(8, 8, 3), (4, 4, 5)]),
    ],
    "masked_generator": [((8, 8, 4), (4, 4, 6)), ((4, 4, 6), (8, 8, 6))],
    "orthogonal_projector": [((4,), (6,)), ((4, 4, 3), (5,)), ((6,), (2, 2, 4)), ((5,), (5,))],
    "review_fusion": [
        ([(6, 6, 3), (3, 3, 4), (4,)], [(6, 6, 5), (3, 3, 6), (8,)]),
        ([(4, 4, 3), (2, 2, 4)], [(2, 2, 5), (4, 4, 6)]),
    ],
    "shadow_head": [
        ((5,), [(8,), (5,)]),
        ((5,), [(3, 3, 8), (5,)]),
        ((5,), [(8, 8, 4), (4, 4, 6), (2, 2, 8), (5,)]),
    ],
    "softmax_regressor": [((4, 4, 3), (2, 2, 8)), ((6,), (8,))],
    "token_projection": [((5, 4), (5, 6)), ((4,), (6,)), ((3, 3, 4), (3, 3, 6))],
    "variational_regressor": [((8, 8, 4), (4, 4, 6)), ((4, 4, 4), (8, 8, 6))],
}
_ANY_SIZE = [((4, 4, 3), (10,)), ((6,), (5, 5, 2))]

# Arguments without a default, or with one that is too large for a test.
_ARGUMENTS: dict[tuple[str, str], dict[str, Any]] = {
    ("adapter", "contrastive_memory"): {"samples": 24, "negatives": 5, "units": 8},
    ("schedule", "constant"): {"constant": 0.25},
    ("schedule", "cosine"): {"start": 0.1, "end": 2.0, "steps": 10},
    ("schedule", "cut_off"): {"after": 2.0, "steps": 10, "before": 0.5},
    ("schedule", "exponential"): {"start": 0.1, "end": 2.0, "steps": 10, "stairs": 5},
    ("schedule", "linear"): {"start": 0.1, "end": 2.0, "steps": 10},
    ("schedule", "piecewise"): {"boundaries": [4, 10], "values": [4.0, 2.0, 1.0]},
    ("schedule", "sigmoid_ramp_up"): {"end": 2.0, "steps": 10},
    ("schedule", "polynomial"): {"start": 0.1, "end": 0.8, "steps": 8, "begin": 2},
}


def loss_shapes(loss: Any) -> tuple[Any, Any]:
    """Returns the shapes, without the batch, of the (teacher, student) that a loss compares.

    Args:
        loss: A loss, or its class.
    """
    cls = loss if isinstance(loss, type) else type(loss)
    family = next(base for base in _FAMILIES if issubclass(cls, base))
    return _LOSSES.get(loss.identifier, _FAMILIES[family])


def adapter_shapes(identifier: str) -> list[tuple[Any, Any]]:
    """Returns the shapes, without the batch, of (student, teacher) pairs that an adapter takes."""
    return _ADAPTERS.get(identifier, _ANY_SIZE)


def example_arguments(kind: str, identifier: str) -> dict[str, Any]:
    """Returns the constructor arguments that a component is made with."""
    return dict(_ARGUMENTS.get((kind, identifier), {}))
