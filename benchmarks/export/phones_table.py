"""The table of networks for phones."""

from collections.abc import Mapping
from typing import Any

from benchmarks import common

Row = Mapping[str, Any]


def phones(rows: list[Row]) -> str:
    """Returns the latest row of each network and way to quantize it."""
    columns = ["network (parameters)", "int8", "agreement with Keras, %"]
    columns += ["test accuracy: file, %", "Keras, %", "KiB"]
    lines = []
    latest = common.latest(rows, "network", "contender")
    for row in latest:
        percents = (row[name] for name in ("agreement", "accuracy", "keras_accuracy"))
        cells = [f"{row['network']} ({row['parameters']:,})", row["contender"]]
        lines.append([*cells, *(f"{100 * one:.1f}" for one in percents), row["bytes"] // 1024])
    # One command measures all networks, or each by itself.
    alike = [{**row, "command": row["command"].partition(" --network=")[0]} for row in latest]
    settings = ("float_steps", "steps", "batch", "teacher_epochs", "images")
    return "\n".join([*common.table(columns, lines), "", *common.origins(alike, *settings)])
