"""Knowledge: what one student learns from one teacher.

A knowledge combines a loss with the taps it reads, the adapter between them, and a weight. There
are three kinds: `Response` (outputs), `Feature` (representations inside the models) and `Relation`
(relations between the samples of a batch).
"""

# Written by `make generate` from the registry.

from modreduce_keras.knowledge.base import Knowledge
from modreduce_keras.knowledge.feature import Feature
from modreduce_keras.knowledge.relation import Relation
from modreduce_keras.knowledge.response import Response

__all__ = [
    "Knowledge",
    "Feature",
    "Relation",
    "Response",
]


def __dir__() -> list[str]:
    return __all__
