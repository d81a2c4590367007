"""The table of sparse TFLite files, from rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common

NAMES = {"convnet": "convnet of the quick start", "mobilenet": "MobileNet, alpha 0.5"}


def sparse_files(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line for each network and share of zeros: its plain file beside its sparse one."""
    if not rows:
        return "*Not measured yet.*"
    found = {(row["network"], row["sparsity"], row["file"]): row for row in rows}
    lines = []
    for name, sparsity, file in found:
        if file == "sparse":
            plain, sparse = (found[name, sparsity, one] for one in ("plain", "sparse"))
            sizes = [
                f"{row[size] / 1024:,.1f}"
                for size in ("bytes", "gzipped")
                for row in (plain, sparse)
            ]
            time = f"{common.told(sparse, 'ratio', 2)} x"
            cells = [NAMES[name], f"{100 * sparsity:.0f} %", *sizes, time]
            lines.append([*cells, f"{sparse['difference']:.2g}"])
    columns = ["network", "zeros", "KiB", "KiB, sparse format", "KiB after gzip"]
    columns += ["KiB after gzip, sparse format", "time of the sparse file (quartiles)"]
    table = common.table([*columns, "largest difference of outputs"], lines)
    return "\n".join([*table, "", *common.origins(found.values(), "rounds", "steps")])
