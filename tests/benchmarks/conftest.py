"""Makes the benchmarks importable: they are scripts beside each other, not a package."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch, forgets_flags):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield BENCHMARKS
    # Several define flags of the same name, so none may outlive its test.
    for script in BENCHMARKS.glob("*.py"):
        sys.modules.pop(script.stem, None)
