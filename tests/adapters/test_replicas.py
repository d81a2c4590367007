"""Adapters remember on two replicas what they do on one, also with uneven shards."""

from pathlib import Path

import pytest

from tests.support import programs

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("two_replicas.py")


ADAPTERS = ["per_sample", "by_rows", "shared", "queue", "in_batch", "centered"]


def test_two_replicas_equal_one():
    ended = programs.run(PROGRAM, *ADAPTERS)
    done = ended.stdout.split()
    assert ended.returncode == 0, f"after {done}: {ended.stderr[-3000:]}"
    assert done == ADAPTERS
