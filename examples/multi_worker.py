r"""Several machines: one program on each, and `TF_CONFIG` says which of them it is.

This program starts itself as two workers of this machine, which talk over the loopback. On a
cluster, leave that out and start it with `--worker` on every machine, each with its own TF_CONFIG:

    python examples/multi_worker.py

    TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
                "task": {"type": "worker", "index": 0}}' \
        python examples/multi_worker.py --worker

Two things differ from a program for one machine. The strategy comes first, before anything else of
TensorFlow, and models, distiller and optimizer are made in its scope. And only one worker writes
the model, which all of them have. The batch is the global one: each worker gets its share of it,
and the model is the one that a single machine would have trained, but for the last digits.

A small and a larger network teach each other (deep mutual learning) on the sample of Fashion-MNIST
in the package: a minute on two cores. What the workers say to each other is not encrypted: use
a network you trust.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from absl import app, flags, logging

import modreduce_keras as mr

FLAGS = flags.FLAGS
flags.DEFINE_bool("worker", False, "Be one of the workers that TF_CONFIG names.")
flags.DEFINE_integer("workers", 2, "Workers to start on this machine.", lower_bound=2)
flags.DEFINE_integer("images", 2000, "Training images.", 64, 10_000)
flags.DEFINE_integer("epochs", 8, "Epochs.", lower_bound=1)
flags.DEFINE_string("output", "multi_worker", "Folder for the small network.")

BATCH = 64  # of all workers together
PEERS = {"small": (8, 16), "large": (16, 32)}


def network(widths: tuple[int, ...], name: str) -> keras.Model:
    """Returns an untrained network from images to the logits of ten classes."""
    return mr.models.get("convnet", num_classes=10, widths=widths, name=name)


def train() -> None:
    """Runs on every worker."""
    strategy = mr.distribute.strategy("multi_worker")
    chief = strategy.cluster_resolver.task_id == 0
    keras.utils.set_random_seed(0)  # The same weights everywhere.
    (images, classes), test = mr.data.load_sample()
    data = tf.data.Dataset.from_tensor_slices((images[: FLAGS.images], classes[: FLAGS.images]))
    data = data.shuffle(FLAGS.images, seed=0).batch(BATCH, drop_remainder=True)

    with strategy.scope():
        peers = {name: network(widths, name) for name, widths in PEERS.items()}
        distiller = mr.PeerDistiller(peers, aggregator="mutual")
        distiller.compile(
            keras.optimizers.Adam(1e-2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    distiller.fit(data, epochs=FLAGS.epochs, verbose=0)

    logs = distiller.evaluate(*test, batch_size=500, verbose=0, return_dict=True)
    if chief:
        path = Path(FLAGS.output) / "small.keras"
        path.parent.mkdir(parents=True, exist_ok=True)
        peers["small"].save(path)
        workers = strategy.num_replicas_in_sync
        accuracy = f"{100 * logs['small/accuracy']:.1f} %"
        print(f"{workers} workers, test accuracy {accuracy}, saved as {path}", flush=True)


def free_ports(number: int) -> list[int]:
    """Returns ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers() -> None:
    """Starts this program as several workers, and waits for them."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(FLAGS.workers)]}
    command = [sys.executable, __file__, *sys.argv[1:], "--worker"]
    workers = []
    for index in range(FLAGS.workers):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        workers.append(subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}))
    if any([worker.wait() for worker in workers]):
        sys.exit("A worker failed; what it said is above.")


def main(_) -> None:
    logging.set_verbosity(logging.ERROR)
    if FLAGS.worker:
        train()
    else:
        start_workers()


if __name__ == "__main__":
    app.run(main)
