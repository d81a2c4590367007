"""The table of the pairs that are proposed for each architecture."""

import re
from collections.abc import Mapping
from typing import Any

from benchmarks import common

Row = Mapping[str, Any]
COMMAND = "python -m benchmarks.matrix.pairs"


def model_pairs(rows: list[Row]) -> str:
    """Returns the pairs of features of each student, its embedding, and where rows come from."""
    latest = common.latest(rows, "architecture")
    lines = [[row["architecture"], _features(row), _embedding(row)] for row in latest]
    table = common.table(["student", "layers: student = teacher (stride)", "embedding"], lines)
    versions = sorted({f"TensorFlow {r['tensorflow']}, Keras {r['keras']}" for r in latest})
    dates = sorted({row["date"][:10] for row in latest})
    return "\n".join([*table, "", f"`{COMMAND}`, {'; '.join(versions)}, {', '.join(dates)}."])


def _features(row: Row) -> str:
    if "feature" not in row:
        return row["feature_error"]
    return "; ".join(_pair(one) for one in row["feature"])


def _pair(pair: Mapping[str, Any]) -> str:
    """Returns both layers and their stride, of which there are two where they differ."""
    strides = re.match(r"both at stride (\d+)|strides (\d+) and (\d+)", pair["why"])
    told = " / ".join(one for one in strides.groups() if one) if strides else ""
    names = " = ".join(f"`{_last(pair[role])}`" for role in ("student", "teacher"))
    return f"{names} ({told})" if told else names


def _last(path: str) -> str:
    """Returns a path without the models that a layer is in."""
    return path.rpartition("/")[2]


def _embedding(row: Row) -> str:
    if "relation" not in row:
        return row["relation_error"]
    (pair,) = row["relation"]
    shape = " x ".join(map(str, pair["student_shape"]))
    return f"`{_last(pair['student'])}` ({shape})"
