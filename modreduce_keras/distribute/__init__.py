"""Distributed training: strategies for devices and machines, and operations across replicas."""

from modreduce_keras.distribute.chunks import by_chunks
from modreduce_keras.distribute.graph_checks import checked_in_graph, known
from modreduce_keras.distribute.host_functions import on_host
from modreduce_keras.distribute.lost_workers import telling_of_lost_workers
from modreduce_keras.distribute.replicas import (
    average_over_replicas,
    gather_over_replicas,
    gather_with_gradient,
    num_replicas,
    place_in_global_batch,
    require_index,
    require_sample_index,
    share_over_replicas,
    sum_over_replicas,
)
from modreduce_keras.distribute.rows import (
    assign_rows,
    changed_by_rows,
    keeping_overwritten,
    take_back,
    take_from_rows,
    take_rows,
)
from modreduce_keras.distribute.strategies import (
    batch_of_this_replica,
    cluster_config,
    is_multi_worker,
    reducible_logs,
    require_in_scope,
    strategy,
)

__all__ = [
    "strategy",
    "assign_rows",
    "changed_by_rows",
    "checked_in_graph",
    "cluster_config",
    "average_over_replicas",
    "batch_of_this_replica",
    "by_chunks",
    "gather_over_replicas",
    "gather_with_gradient",
    "is_multi_worker",
    "keeping_overwritten",
    "known",
    "num_replicas",
    "on_host",
    "place_in_global_batch",
    "reducible_logs",
    "require_in_scope",
    "require_index",
    "require_sample_index",
    "share_over_replicas",
    "sum_over_replicas",
    "take_back",
    "take_from_rows",
    "take_rows",
    "telling_of_lost_workers",
]


def __dir__() -> list[str]:
    return __all__
