"""A step of KD beside PyTorch: what ours costs where a peer does the same.

For each pair of teacher and student there are two processes, each in its own environment: one with
Keras (the step written by hand as in `by_hand.py`, and this library's, in float32 and bfloat16) and
one with PyTorch (channels last, in float32 and bfloat16 autocast, as it is and by `torch.compile`).
They take turns step by step, so that other work of the machine affects both. All contenders start
from the same weights, learn from the same batch with SGD, momentum and weight decay, compute on
the same cores, and keep the same running means. Before anything is timed, the networks must have
equal numbers of parameters, and the losses of the first step must agree.

PyTorch stands for the faster of its two forms. Ratios are taken within a round, then summarized. On
processors; bfloat16 only where they have its arithmetic. The environment of the peer:

    python -m venv .venv-peers
    .venv-peers/bin/pip install -r benchmarks/speed/peers/requirements.txt
    python -m benchmarks.speed.peers.kd
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import common
from benchmarks.speed.peers.worker import Worker

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "pair", ["resnet56:resnet20", "resnet32x4:resnet8x4"], "TEACHER:STUDENT, from mr.models"
)
flags.DEFINE_integer("batch", 64, "Images in a batch", lower_bound=2)
flags.DEFINE_integer("rounds", 20, "Rounds, each with every contender", lower_bound=1)
flags.DEFINE_integer("steps", 1, "Steps of a contender in a round", lower_bound=1)
flags.DEFINE_integer("warm_up", 2, "Steps of each contender before the rounds", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights and images")
flags.DEFINE_bool("compiled", True, "Let PyTorch run by torch.compile as well")
flags.DEFINE_string("peer_python", ".venv-peers/bin/python", "An interpreter that has PyTorch")
flags.DEFINE_string("output", str(common.RESULTS / "peers.jsonl"), "Rows go here")

CLASSES = 100
TRAINING = {"rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
BY_HAND = "by hand, float32"
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""How far the loss of a first step may be from that by hand, as a part of it."""
WANTED = {
    ("resnet56:resnet20", "float32"): {"by_hand": 0.80, "peer": 0.97},
    ("resnet56:resnet20", "bfloat16"): {"by_hand": 0.45, "peer": 1.05},
    ("resnet32x4:resnet8x4", "float32"): {"by_hand": 0.86, "peer": 0.95},
    ("resnet32x4:resnet8x4", "bfloat16"): {"by_hand": 0.27, "peer": 0.85},
}
"""Ratios of our steps that are to be reached."""


def require_equal(workers: list[Worker], losses: Mapping[str, float]) -> None:
    """Compares what the workers train, and the contenders' losses of the first step.

    Raises:
        RuntimeError: If they differ, so that a comparison of their times would mean nothing.
    """
    ours, peer = (worker.about["parameters"] for worker in workers)
    if ours != peer:
        raise RuntimeError(f"Ours have {ours} parameters, but the peer's have {peer}")
    for name, loss in losses.items():
        error = abs(loss / losses[BY_HAND] - 1)
        if not error <= TOLERANCE[dtype_of(name)]:
            raise RuntimeError(f"The first loss of {name!r} differs by {error:.1e}: {losses}")


def dtype_of(name: str) -> str:
    """Returns what a contender computes in."""
    return name.rpartition(", ")[2]


def measure(pair: str, directory: Path) -> list[dict[str, Any]]:
    """Returns the rows of one pair of models, one for each contender."""
    shared = {
        "start": str(directory / f"{pair.replace(':', '_')}.npz"),
        "pair": pair.split(":"),
        "classes": CLASSES,
        "bfloat16": common.has_bfloat16(),
        **TRAINING,
    }
    own = {"batch": FLAGS.batch, "seed": FLAGS.seed, "compiled": FLAGS.compiled}
    settings = {"pytorch": {**shared, **own, "cores": common.cores()}, "ours": shared}
    # The first of them writes the file that all start from.
    peer, ours = (
        Worker([python, "-m", f"{__package__}.{module}"], settings[module])
        for python, module in ((FLAGS.peer_python, "pytorch"), (sys.executable, "ours"))
    )
    try:
        runs = {
            name: lambda worker=worker, name=name: worker.step(name)
            for worker in (ours, peer)
            for name in worker.names
        }
        require_equal([ours, peer], {name: run() for name, run in runs.items()})
        for run in runs.values():
            for _ in range(FLAGS.warm_up):
                run()
        times = common.interleave(runs, rounds=FLAGS.rounds, steps=FLAGS.steps)
        for name, run in runs.items():
            if not np.isfinite(run()):
                raise RuntimeError(f"{name!r} has trained its student to infinity or NaN")
    finally:
        for worker in (ours, peer):
            worker.close()
    about = {**peer.about, "parameters": list(ours.about["parameters"].values())}
    return [{"pair": pair, **row, **about} for row in compared(pair, times)]


def compared(pair: str, times: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns rows of the times; ours with the ratios to the step by hand and to the peer's best.

    Args:
        pair: TEACHER:STUDENT.
        times: (rounds, steps) milliseconds, by contender.
    """
    rows = []
    for name, own in times.items():
        dtype = dtype_of(name)
        row = {"contender": name, "dtype": dtype, **common.spread(own, "ms")}
        if name.startswith("ours"):
            peers = [n for n in times if n.startswith("PyTorch") and dtype_of(n) == dtype]
            best = min(peers, key=lambda peer: np.median(times[peer]))
            wanted = WANTED.get((pair, dtype), {})
            for kind, other in (("by_hand", BY_HAND), ("peer", best)):
                row |= common.spread(common.paired_ratios(own, times[other]), kind)
                row[f"{kind}_wanted"] = wanted.get(kind)
            row["peer"] = best
        rows.append(row)
    return rows


def main(_) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # The workers inherit it.
    sizes = {name: FLAGS[name].value for name in ("batch", "rounds", "steps")}
    about = {"cores": common.cores(), "bfloat16": common.has_bfloat16()}
    about |= common.metadata(FLAGS.seed)
    if not about["bfloat16"]:
        print("No bfloat16 arithmetic here: it is not compared")
    with tempfile.TemporaryDirectory() as directory:
        for pair in FLAGS.pair:
            rows = measure(pair, Path(directory))
            common.append_rows(Path(FLAGS.output), [{**row, **sizes, **about} for row in rows])
            for row in rows:
                line = f"{pair}  {row['contender']:28} {row['ms_median']:8.1f} ms"
                if "peer" in row:
                    line += f"  {common.told(row, 'by_hand', 2)} x by hand"
                    line += f"  {common.told(row, 'peer', 2)} x {row['peer']}"
                print(line, flush=True)


if __name__ == "__main__":
    app.run(main)
