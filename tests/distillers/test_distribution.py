"""Several replicas or machines train exactly as one, also when shards are uneven or empty."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
DISTILLERS = [
    "offline",
    "rkd",
    "crd",
    "modreduce",
    "modreduce_one",
    "one",
    "okddip",
    "pcl",
    "skipping",
    "staged",
]


def run(program, *names):
    done = subprocess.run(
        [sys.executable, str(HERE / program), *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("distiller", DISTILLERS)
def test_two_replicas_equal_one(distiller):
    run("two_replicas.py", distiller)


def test_two_workers_equal_one_process():
    run("two_workers.py", *DISTILLERS)
