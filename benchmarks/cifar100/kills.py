"""CIFAR-100: whether every published pair starts, steps, writes checkpoints and survives a kill.

For each pair, `train.py` is run three times as the pair's flag file says, but with one method
(ModReduce, in which KD, SemCKD and CRD are as well), few images and epochs, and a teacher that is
not trained: to the end; until it is killed (SIGKILL), when the checkpoint of the first epoch is
there; and again, to go on. What the third run ends with is compared with what the first one did.

    python -m benchmarks.cifar100.kills
    python -m benchmarks.cifar100.kills --pair=resnet56:resnet20 --method=kd --method=crd

The flags are those of `train.py`, with other defaults; run it in the root of the repository.
"""

import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import common
from benchmarks.cifar100 import train as runner
from benchmarks.cifar100.published import PUBLISHED
from modreduce_keras.callbacks.checkpoints import Folder, Position

FLAGS = flags.FLAGS
DEFAULTS = {
    "pair": list(PUBLISHED),
    "method": ["modreduce/weighted_average"],
    "epochs": 3,
    "held_out": 49_900,
    "validation": 100,
    "output": str(common.RESULTS / "cifar100_kills.jsonl"),
}
for _name, _value in DEFAULTS.items():
    FLAGS.set_default(_name, _value)

CONFIGURATIONS = Path(__file__).parent / "configurations"
SPAWN = multiprocessing.get_context("spawn")


def train(arguments: list[str], pair: str, method: str, begun: Path) -> None:
    """Runs `train.py` in this process: one method of its flags, and few of the test images.

    Args:
        arguments: Its flags.
        pair: The networks that they name.
        method: The method to train by.
        begun: A file, to which the number of each epoch is appended as it begins.
    """

    class Noting(runner.Clock):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            with begun.open("a", encoding="ascii") as file:
                print(epoch, file=file)

    every = runner.images

    def images(protocol, split, **given):
        data = every(protocol, split, **given)
        return data.take(1) if split == "test" else data

    FLAGS(["train.py", *arguments])
    FLAGS.method = [method]
    runner.Clock, runner.images = Noting, images
    (run,) = runner.runs()
    if run.pair != pair:
        raise RuntimeError(f"The flag file of {pair} is one of {run.pair}")
    save_teacher(run)
    runner.main([])


def save_teacher(run: runner.Run) -> None:
    """Writes an untrained teacher whose outputs are moderate where the run looks for one."""
    path = Path(FLAGS.folder, "teachers", f"{run.teacher}.keras")
    if path.exists():
        return
    teacher = run.protocol.network(run.teacher, "teacher")
    pixels, _ = next(iter(runner.training_images(run, taught=False)))
    common.adopt_statistics(teacher, pixels)
    path.parent.mkdir(parents=True)
    teacher.save(path)


def run(folder: Path, pair: str, method: str, kill: bool = False) -> list[int]:
    """Runs `train` in a process of its own.

    Args:
        folder: What the runs share, and their rows.
        pair: The networks.
        method: What trains them.
        kill: Whether to kill the process once there is the checkpoint of a first epoch.

    Returns:
        The epochs that have begun, from 0.

    Raises:
        RuntimeError: If the process fails, or ends before it could be killed.
    """
    begun = folder / "begun"
    begun.unlink(missing_ok=True)
    names = [name for name in ("epochs", "held_out", "validation") if FLAGS[name].value]
    arguments = [f"--{name}={FLAGS[name].value}" for name in names]
    arguments += [f"--data_dir={FLAGS.data_dir}"] * bool(FLAGS.data_dir)
    arguments += [f"--folder={folder}", f"--output={folder / 'rows.jsonl'}"]
    arguments += [f"--flagfile={CONFIGURATIONS / pair.replace(':', '_')}.txt"]
    process = SPAWN.Process(target=train, args=(arguments, pair, method, begun))
    process.start()
    while kill and process.is_alive() and not newest(folder):
        time.sleep(0.02)
    if kill:
        process.kill()
    process.join()
    if process.exitcode != (-signal.SIGKILL if kill else 0):
        wanted = "be killed" if kill else "end well"
        raise RuntimeError(
            f"train.py {' '.join(arguments)} was to {wanted} with {method}, and ended with exit "
            f"code {process.exitcode}"
        )
    return [int(line) for line in begun.read_text("ascii").split()]


def newest(folder: Path) -> Position | None:
    """Returns the position of the newest checkpoint of all unfinished runs."""
    folders = (folder / "runs").iterdir() if (folder / "runs").is_dir() else ()
    return max((at for path in folders for at in Folder(path, 1).positions()), default=None)


def measure(pair: str, method: str) -> dict[str, Any]:
    """Returns the row of a pair and a method.

    Raises:
        RuntimeError: If the run that was killed did not go on where it was, or ended elsewhere.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        output = folder / "rows.jsonl"
        run(folder, pair, method)
        (whole,) = common.read_rows(output)
        output.unlink()
        begun = run(folder, pair, method, kill=True)
        left = newest(folder)
        again = run(folder, pair, method)
        (row,) = common.read_rows(output)
    if again[0] != left.epoch:
        raise RuntimeError(f"{left} was on the disk, and it went on with epoch {again[0]}")
    steps = -(-whole["samples"] // whole["batch"])
    return {
        "pair": pair,
        "method": method,
        **{name: whole[name] for name in ("epochs", "samples", "batch", "validation_images")},
        "diverged": whole["diverged"],
        "steps": steps * whole["epochs"],
        "steps_before": steps * left.epoch,
        "begun": [epoch + 1 for epoch in begun],
        "begun_again": [epoch + 1 for epoch in again],
        "difference": difference(whole, row),
        "seconds": round(whole["seconds"], 1),
    }


def difference(whole: Mapping[str, Any], again: Mapping[str, Any]) -> float:
    """Returns the largest relative difference of the epochs' losses.

    Raises:
        RuntimeError: If the rows have other accuracies, or losses that are not alike.
    """
    apart = [name for name in runner.OUTCOME if name != "curve" and whole[name] != again[name]]
    losses, others = (np.array(row["curve"]["loss"]) for row in (whole, again))
    relative = np.inf
    if losses.shape == others.shape:
        relative = float(np.max(np.abs(others / losses - 1.0), initial=0.0))
    if apart or relative > common.LOGS_TOLERANCE:
        raise RuntimeError(
            f"It went on to another end: {apart} differ, and losses {others} from {losses}"
        )
    return relative


def main(_) -> None:
    runner.require_networks()
    failed = []
    for pair in FLAGS.pair:
        for method in runner.methods():
            try:
                row = {**common.metadata(FLAGS.first_seed), **measure(pair, method)}
            except RuntimeError as error:
                failed.append(f"{pair} {method}: {error}")
                continue
            common.append_rows(Path(FLAGS.output), [row])
            told = f"killed after {row['steps_before']} of {row['steps']} steps, went on"
            print(f"{pair:28} {method:26} {told}, {row['difference']:.1e} apart", flush=True)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    app.run(main)
