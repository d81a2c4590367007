"""Program for test_distribution: trains by two workers on this machine, and by one process.

Usage: python two_workers.py NAME ..., of `distributed_training.BUILDERS`. It starts itself twice
more, as `python two_workers.py --worker FOLDER NAME ...` with TF_CONFIG set.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
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


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_two(folder: str, names: list[str]) -> None:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    workers = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        command = [sys.executable, __file__, "--worker", folder, *names]
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        workers.append(subprocess.Popen(command, env=environment))
    try:
        codes = [worker.wait(timeout=600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert codes == [0, 0], codes


def compare(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        start_two(folder, names)
        for name in names:
            data = training.dataset(examples_of(name), name)
            [one] = training.train(name, tf.distribute.OneDeviceStrategy("CPU:0"), data)
            for worker in range(2):
                with np.load(Path(folder) / f"{name}_{worker}.npz") as arrays:
                    logs = {k[4:]: arrays[k] for k in arrays if k.startswith("log ")}
                    weights = [arrays[f"arr_{place}"] for place in range(len(one[1]))]
                training.assert_same_run(one, (logs, weights))


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        work(Path(sys.argv[2]), sys.argv[3:])
    else:
        compare(sys.argv[1:])
