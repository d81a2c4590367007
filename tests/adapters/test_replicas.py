"""Adapters remember on two replicas what they do on one, also with uneven shards."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("two_replicas.py")


@pytest.mark.parametrize(
    "adapter", ["per_sample", "by_rows", "shared", "queue", "in_batch", "centered"]
)
def test_two_replicas_equal_one(adapter):
    run = subprocess.run(
        [sys.executable, str(PROGRAM), adapter], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
