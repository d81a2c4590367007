"""Runs benchmarks as programs, and forgets those that a test has imported."""

import sys
from pathlib import Path

import pytest

from tests.support import programs

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _forgets_benchmarks(forgets_flags):
    """Several benchmarks define flags of the same name, so none may outlive its test."""
    yield
    for name in [*sys.modules]:
        if name.partition(".")[0] == "benchmarks":
            del sys.modules[name]


@pytest.fixture(scope="session")
def run_benchmark():
    """Returns a function that runs a module of `benchmarks` with flags and returns its output."""

    def run(module: str, *flags: str) -> str:
        return programs.printed(f"benchmarks.{module}", *flags, folder=ROOT)

    return run
