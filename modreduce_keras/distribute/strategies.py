"""Strategies: distribute a training over devices and machines, and check variables' scope."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from modreduce_keras.arguments import require_choice

STRATEGIES = ("auto", "mirrored", "multi_worker", "one_device")


def strategy(name: Any = "auto") -> Any:
    """Returns a strategy of `tf.distribute` under which distillers train.

    Make students, teacher, adapters and distiller, and compile, inside its scope; then call `fit`
    as ever. The result is that of one device with the same global batch.

    With several machines, every one runs the same program. `TF_CONFIG` tells each who it is and
    where the others are, and the strategy has to be made before anything else of TensorFlow:

        TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
                    "task": {"type": "worker", "index": 0}}' python train.py

    Args:
        name: `"mirrored"`: the GPUs of this machine, or its CPU where it has none.
            `"multi_worker"`: the machines that the environment variable `TF_CONFIG` names.
            `"one_device"`: the first GPU, or the CPU. `"auto"`: several machines where `TF_CONFIG`
            names several workers, else all GPUs where there are several, else one device. Or a
            strategy of your own, which is returned. Defaults to `"auto"`.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: If the name is unknown, the strategy is one that Keras' `fit` cannot run, or
            `"multi_worker"` is asked for and `TF_CONFIG` names no workers.
        RuntimeError: If several machines are asked for after TensorFlow has begun.

    Example:
        >>> import keras, modreduce_keras as mr
        >>> strategy = mr.distribute.strategy("one_device")
        >>> with strategy.scope():
        ...     student = mr.models.get("convnet", num_classes=3, widths=(4, 8))
        ...     distiller = mr.SelfDistiller(student, exits=["stage1"])
        ...     distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        >>> strategy.num_replicas_in_sync
        1
    """
    import tensorflow as tf

    if isinstance(name, tf.distribute.Strategy):
        if isinstance(name, tf.distribute.ParameterServerStrategy):
            raise ValueError(
                "Keras' fit does not run under a ParameterServerStrategy; use 'multi_worker', "
                f"where every machine trains. Received: {name!r}"
            )
        return name
    require_choice("name", name, STRATEGIES)
    workers, _ = cluster_config()
    if name == "multi_worker" or (name == "auto" and len(workers) > 1):
        return _multi_worker(workers)
    # Not earlier: looking at devices is the beginning of TensorFlow.
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(gpus or None)
    return tf.distribute.OneDeviceStrategy(gpus[0] if gpus else "CPU:0")


def _multi_worker(workers: list[str]) -> Any:
    import tensorflow as tf

    if not workers:
        raise ValueError(
            "'multi_worker' needs the environment variable TF_CONFIG, such as "
            '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}. '
            f"Received: TF_CONFIG={os.environ.get('TF_CONFIG')!r}"
        )
    _require_task(cluster_config()[1])
    has_begun = _has_begun(tf.config.threading)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        if not has_begun:
            raise
        raise RuntimeError(
            "A strategy of several machines must be made before anything else of TensorFlow: "
            "before models, tensors and datasets, and before devices are listed."
        ) from error


def _has_begun(threading: Any) -> bool:
    """Returns whether TensorFlow has begun, after which it does not change its threads any more."""
    number = threading.get_inter_op_parallelism_threads()
    try:
        threading.set_inter_op_parallelism_threads(number + 1)
    except RuntimeError:
        return True
    threading.set_inter_op_parallelism_threads(number)
    return False


def _require_task(task: dict[str, Any]) -> None:
    """Raises unless the task of TF_CONFIG is one of the workers that its cluster names."""
    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
    tasks = {kind: len(cluster[kind]) for kind in ("chief", "worker") if kind in cluster}
    kind, index = task.get("type"), task.get("index")
    if not str(index).isdigit() or int(str(index)) >= tasks.get(str(kind), 0):
        raise ValueError(
            "The task of TF_CONFIG must say which of the cluster's workers this is: its type, one "
            f"of {list(tasks)}, and its index, from 0 to their number less one ({tasks}). "
            f"Received: task={task}"
        )


def cluster_config() -> tuple[list[str], dict[str, Any]]:
    """Returns the addresses of the workers that TF_CONFIG names, and the task it gives this one.

    Raises:
        ValueError: If TF_CONFIG is set and is something else.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        cluster, task = config.get("cluster", {}), dict(config.get("task", {}))
        addresses = [cluster.get("chief", []), cluster.get("worker", [])]
        if not all(isinstance(one, list) for one in addresses):
            raise TypeError("addresses are lists")
        return [*addresses[0], *addresses[1]], task
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            "The environment variable TF_CONFIG must be JSON with a cluster, of lists of "
            "addresses, and a task. "
            f"Received: {text!r}"
        ) from error


def is_multi_worker(strategy: Any) -> bool:
    """Returns whether a strategy trains on several machines."""
    import tensorflow as tf

    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return several and strategy.num_replicas_in_sync > 1


def batch_of_this_replica(strategy: Any, iterator: Iterator[Any], *, awaited: bool) -> Any:
    """Returns the first batch of the first replica of this machine, or `None`.

    It is there where there are several machines, or it is awaited.

    Args:
        strategy: The strategy under which `fit` runs.
        iterator: Yields (step, batches) as Keras' trainer does.
        awaited: Whether the batch is needed.
    """
    if not (awaited or is_multi_worker(strategy)):
        return None
    *_, batches = next(iter(iterator))
    local = strategy.experimental_local_results
    return keras.tree.map_structure(lambda values: local(values)[0], next(batches))


def reducible_logs(strategy: Any, logs: dict[str, Any]) -> dict[str, Any]:
    """Returns the logs of a step as Keras' reduction over replicas wants them.

    On several machines it takes the mean over the first axis of what should be scalars.
    """
    if not is_multi_worker(strategy):
        return logs
    return {name: keras.ops.expand_dims(value, 0) for name, value in logs.items()}


def require_in_scope(strategy: Any, parts: Iterable[tuple[str, list[Any]]]) -> None:
    """Raises unless everything that trains was made where it is trained.

    Args:
        strategy: The strategy under which `fit` runs.
        parts: What to check, by its name in the message: Keras variables.

    Raises:
        ValueError: If a variable was made outside of the strategy's scope, or in that of another.
    """
    import tensorflow as tf

    # One replica of a strategy that mirrors has variables of its own kind as well.
    several = strategy.num_replicas_in_sync > 1
    several = several or isinstance(strategy, tf.distribute.MirroredStrategy)
    for name, variables in parts:
        homes = [getattr(variable.value, "distribute_strategy", None) for variable in variables]
        if several:
            created_here = strategy.extended.variable_created_in_scope
            strange = [not created_here(variable.value) for variable in variables]
        else:
            strange = [home is not None and home.num_replicas_in_sync > 1 for home in homes]
        if any(strange):
            home = homes[strange.index(True)]
            made = "outside of every scope" if home is None else f"in the scope of {home!r}"
            raise ValueError(
                f"{name} must be made where it is trained: make models, distiller and optimizer, "
                "and compile, inside of `with strategy.scope():`. "
                f"Received: {name} made {made}, to train under {strategy!r}"
            )
