"""Program for test_distribution: trains as one of two workers, or by one process and compares.

Usage: python two_workers.py FOLDER NAME ..., of `distributed_training.BUILDERS`. With TF_CONFIG set
it trains as that worker, and writes to the folder what the process without compares itself with.
"""

import os
import sys
from pathlib import Path

import distributed_training as training
import numpy as np
import tensorflow as tf


def examples_of(name: str) -> int:
    """Returns a number of samples; what gathers over machines wants full batches."""
    return 16 if name in ("crd", "rkd", "one", "modreduce_one") else 13


def work(folder: Path, names: list[str]) -> None:
    # Before anything else of TensorFlow.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    worker = strategy.cluster_resolver.task_id
    for name in names:
        data = training.dataset(examples_of(name), name)
        [(logs, weights)] = training.train(name, strategy, data)
        np.savez(
            folder / f"{name}_{worker}.npz", *weights, **{f"log {k}": v for k, v in logs.items()}
        )


def compare(folder: Path, names: list[str]) -> None:
    for name in names:
        data = training.dataset(examples_of(name), name)
        [one] = training.train(name, tf.distribute.OneDeviceStrategy("CPU:0"), data)
        for worker in range(2):
            with np.load(folder / f"{name}_{worker}.npz") as arrays:
                logs = {k[4:]: arrays[k] for k in arrays if k.startswith("log ")}
                weights = [arrays[f"arr_{place}"] for place in range(len(one[1]))]
            training.assert_same_run(one, (logs, weights))


if __name__ == "__main__":
    part = work if "TF_CONFIG" in os.environ else compare
    part(Path(sys.argv[1]), sys.argv[2:])
