"""The table of steps beside a peer's."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common


def peers(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the latest row of each pair and contender, and which side is ahead."""
    columns = ["teacher → student", "step of KD", "milliseconds (quartiles)"]
    columns += ["x by hand, float32 (wanted)", "x the faster PyTorch of its precision (wanted)"]
    lines = []
    latest = common.latest(rows, "pair", "contender")
    for row in latest:
        cells = [row["pair"].replace(":", " → "), row["contender"], common.told(row, "ms", 0)]
        lines.append([*cells, *(_ratio(row, kind) for kind in ("by_hand", "peer"))])
    return "\n".join(
        [
            *common.table(columns, lines),
            "",
            *common.origins(latest, "batch", "rounds", "steps", "cores", "torch"),
        ]
    )


def _ratio(row: Mapping[str, Any], kind: str) -> str:
    if f"{kind}_median" not in row:
        return ""
    wanted = row[f"{kind}_wanted"]
    return common.told(row, kind, 2) + (f", ≤ {wanted:.2f}" if wanted else "")
