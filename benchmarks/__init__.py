"""Measurements behind the tables of the README and of docs/. Nothing here is installed.

Run one in the root of the repository, `python -m benchmarks.speed.step_overhead`; `--help` shows
its flags. Each appends rows to `results/NAME.jsonl`, and `python -m benchmarks.tables` makes the
tables from the rows.
"""
