"""Knowledge: what one student is taught from one teacher.

A knowledge binds a loss to the taps it reads, the adapter between them and the weight of the
term. It comes in three kinds: `Response` (the outputs), `Feature` (representations inside) and
`Relation` (how samples lie to each other).
"""

from modreduce_keras.knowledge.base import Knowledge, as_list
from modreduce_keras.knowledge.feature import Feature
from modreduce_keras.knowledge.relation import Relation
from modreduce_keras.knowledge.response import Response

__all__ = ["Feature", "Knowledge", "Relation", "Response", "as_list"]
