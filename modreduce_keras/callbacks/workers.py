"""Workers of a distributed training: their folders, and the checkpoints that all of them have."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modreduce_keras.callbacks.checkpoints import Position
from modreduce_keras.distribute import cluster_config

_NONE = -1


def number(model: keras.Model) -> int:
    """Returns the number of workers that train a model together."""
    resolver = getattr(model.distribute_strategy, "cluster_resolver", None)
    if resolver is None:
        return 1
    return max(1, sum(map(len, resolver.cluster_spec().as_dict().values())))


def own_folder(model: keras.Model) -> str:
    """Returns the name of this worker's folder, `""` where there is one worker.

    Raises:
        ValueError: If the environment variable `TF_CONFIG` does not say which worker this is.
    """
    if number(model) > 1:
        resolver = model.distribute_strategy.cluster_resolver
        task = {"type": resolver.task_type, "index": resolver.task_id}
    else:
        addresses, task = cluster_config()
        if len(addresses) < 2:
            return ""
    kind, index = str(task.get("type")), str(task.get("index"))
    if not re.fullmatch("[a-z_]+", kind) or not index.isdigit():
        raise ValueError(
            "TF_CONFIG of several workers must have a task with a type and an index, such as "
            f'{{"type": "worker", "index": 0}}. Received: task={task}'
        )
    return f"{kind}-{index}"


def common(
    model: keras.Model,
    found: Mapping[Position, Any],
    keep: int,
    path: Path,
    *,
    required: bool = True,
) -> dict[Position, Any]:
    """Returns what of this worker's checkpoints every worker can read.

    Raises:
        ValueError: If one is required, and some can read a checkpoint, but none that all can.
    """
    newest = sorted(found, reverse=True)[:keep]
    rows = [list(position) for position in newest]
    own = np.full((1, keep, 2), _NONE, "int64")
    own[0, : len(rows)] = rows or own[0, :0]
    strategy = model.distribute_strategy
    every = strategy.gather(strategy.run(lambda: tf.constant(own)), axis=0).numpy()
    sets = [{Position(*map(int, row)) for row in rows if row[0] != _NONE} for rows in every]
    shared = set.intersection(*sets)
    if required and any(sets) and not shared:
        raise ValueError(
            f"The workers have no checkpoint in common; this one's are in {path}. Remove the "
            f"folders of all workers to start again. Received: {[sorted(each) for each in sets]}"
        )
    return {position: value for position, value in found.items() if position in shared}
