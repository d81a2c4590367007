"""Knowledge: what one student is taught from one teacher.

A knowledge binds a loss to the taps it reads, the adapter between them and the weight of the
term. It comes in three kinds: `Response` (the outputs), `Feature` (representations inside) and
`Relation` (how samples lie to each other).
"""

# Written by `make generate` from the registry.

from modreduce_keras.knowledge.base import Knowledge, as_list
from modreduce_keras.knowledge.feature import Feature
from modreduce_keras.knowledge.relation import Relation
from modreduce_keras.knowledge.response import Response

__all__ = [
    "Knowledge",
    "Feature",
    "Relation",
    "Response",
    "as_list",
]


def __dir__() -> list[str]:
    return __all__
