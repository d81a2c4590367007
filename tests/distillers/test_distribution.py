"""Two replicas train exactly as one does, also when the last shards are uneven or empty."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("two_replicas.py")


@pytest.mark.parametrize("distiller", ["offline", "modreduce", "staged"])
def test_two_replicas_equal_one(distiller):
    run = subprocess.run(
        [sys.executable, str(PROGRAM), distiller], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
