"""Stand-ins for `train` in `benchmarks/cifar100/kills.py`: they can be killed, or not."""

import time
from pathlib import Path


def _begin(begun, *epochs):
    begun.write_text("".join(f"{epoch}\n" for epoch in epochs), "ascii")


def waits_for_its_death(arguments, pair, method, begun):
    """Two epochs begin, there is a checkpoint of the first, and then nothing happens."""
    _begin(begun, 0, 1)
    run = begun.parent / "runs" / "some_run"
    run.mkdir(parents=True)
    Path(run, "epoch-000001-step-000000000.checkpoint").touch()
    time.sleep(600)


def ends(arguments, pair, method, begun):
    _begin(begun, 0, 1, 2)


def fails(arguments, pair, method, begun):
    _begin(begun, 0)
    raise SystemExit(3)
