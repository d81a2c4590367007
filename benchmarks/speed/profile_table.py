"""The table of where the time of a step goes."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common

Row = Mapping[str, Any]

VARIANTS = {
    (True, "float32"): "as Keras' layers run, float32",
    (False, "float32"): "ours, float32",
    (False, "mixed_bfloat16"): "ours, bfloat16",
}


def profile_step(rows: Sequence[Row]) -> str:
    """Returns a line for each part and kind of operations, and a column for each variant."""
    latest = common.latest(rows, "pair", "plain", "policy", "part", "kind")
    # A part that a later run no longer has is not of that run.
    dates = {_variant(row): row["date"] for row in latest}
    dates = {key: max(r["date"] for r in latest if _variant(r) == key) for key in dates}
    latest = [row for row in latest if row["date"] == dates[_variant(row)]]
    variants = [key for key in VARIANTS if key in dates]
    cells = {(*_variant(row), row["part"], row["kind"]): row for row in latest}
    columns = [
        "part of a step",
        "operations",
        *(f"{VARIANTS[key]}, ms (share)" for key in variants),
    ]
    lines = [
        [part, kind, *(_told(cells.get((*key, part, kind))) for key in variants)]
        for part in dict.fromkeys(row["part"] for row in latest)
        for kind in dict.fromkeys(row["kind"] for row in latest if row["part"] == part)
    ]
    steps = {key: row["step_ms"] for row in latest for key in [_variant(row)]}
    lines.append(["a step", "", *(f"{steps[key]:.0f}" for key in variants)])
    return "\n".join(
        [*common.table(columns, lines), "", *common.origins(latest, "pair", "batch", "steps")]
    )


def _variant(row: Row) -> tuple[bool, str]:
    return row["plain"], row["policy"]


def _told(row: Row | None) -> str:
    return "" if row is None else f"{row['ms']:.1f} ({100 * row['share']:.0f} %)"
