"""The table of quantized distillation, from rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common


def quantized_distillation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line for each way and number of bits: accuracies, and what the float32 one loses.

    Of several settings, the last one that was run counts. Losses are those of the same seed.
    """
    settings = ("epochs", "more_epochs", "learning_rate", "more_learning_rate")
    settings += ("teacher_epochs", "labels")
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in settings)]
    runs = {(row["contender"], row["bits"], row["seed"]): row for row in rows}
    columns = ["file", "bits of the weights", "test accuracy, %", "less than float32", "seeds"]
    lines = []
    for contender, bits in dict.fromkeys((one, bits) for one, bits, _ in runs):
        own = [row for key, row in runs.items() if key[:2] == (contender, bits)]
        losses = [100 * (runs["float32", 32, row["seed"]]["test"] - row["test"]) for row in own]
        lost = "" if contender == "float32" else common.mean_and_deviation(losses)
        accuracy = common.mean_and_deviation([100 * row["test"] for row in own])
        cells = [contender, bits, accuracy, lost, len(own)]
        lines.append(cells)
    return "\n".join([*common.table(columns, lines), "", *common.origins(runs.values(), *settings)])
