"""The table of `dropped_models.py`: what each training of a new model leaves behind."""

from collections.abc import Mapping
from typing import Any

from benchmarks import common

Row = Mapping[str, Any]


def dropped_models(rows: list[Row]) -> str:
    """Returns the latest row of each contender."""
    columns = ["trained by", "weights of its models, MiB", "left behind by each training, MiB"]
    columns += ["resident at the end, MiB"]
    latest = common.latest(rows, "contender")
    lines = [
        [
            row["contender"],
            f"{row['weights_mib']:.1f}",
            f"{row['mib_per_model']:+.1f}",
            f"{row['mib']:.0f}",
        ]
        for row in latest
    ]
    origins = common.origins(latest, "models", "width")
    return "\n".join([*common.table(columns, lines), "", *origins])
