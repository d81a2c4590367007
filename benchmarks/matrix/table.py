"""The tables of the matrix, and the reasons of what is refused."""

import re
from collections.abc import Mapping
from typing import Any

from benchmarks import common

USED = ("logits", "fold", "bfloat16", "KD", "hint", "relation", "quantization-aware")
FILES = ("TFLite float32", "TFLite float16", "TFLite dynamic", "TFLite int8", "ONNX", "SavedModel")
SOURCES = ("keras.applications", "keras-hub", "keras.layers")
"""Where architectures are from, in the order of the tables."""
COMMAND = "python -m benchmarks.matrix.run"

Row = Mapping[str, Any]


def model_matrix(rows: list[Row]) -> str:
    """Returns how many cells hold, both tables, and why others do not."""
    latest = sorted(common.latest(rows, "architecture", "column"), key=_place)
    reasons: dict[str, list[str]] = {}
    for row in latest:
        if row["outcome"] in ("refused", "raw"):
            named = reasons.setdefault(_reason(row), [])
            named += [row["architecture"]] if row["architecture"] not in named else []
    numbers = {reason: number for number, reason in enumerate(reasons, start=1)}
    made = [_summary(latest)]
    for columns in (USED, FILES):
        made += ["", *_table(latest, columns, numbers)]
    made += [""] if reasons else []
    made += [f"{numbers[one]}. {', '.join(names)}: `{one}`" for one, names in reasons.items()]
    return "\n".join([*made, "", _origin(latest)])


def _place(row: Row) -> tuple[int, str]:
    """Returns what rows are sorted by: families of a source together, else as they were made."""
    return SOURCES.index(row["source"]), row.get("family", "")


def _origin(latest: list[Row]) -> str:
    """Returns one line: cells are measured one by one, as the library changes."""

    def several(key: str) -> str:
        return ", ".join(sorted({str(row[key]) for row in latest if row.get(key)}))

    hub = several("keras_hub")
    days = sorted({row["date"][:10] for row in latest})
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return (
        f"`{COMMAND}` on {several('device')}, TensorFlow {several('tensorflow')}, Keras "
        f"{several('keras')}{', keras-hub ' + hub if hub else ''}, modreduce_keras "
        f"{several('modreduce_keras')}, {dates}."
    )


def _summary(latest: list[Row]) -> str:
    outcomes = [row["outcome"] for row in latest]
    several = {row["architecture"]: row["source"] for row in latest}
    sources = [
        f"{list(several.values()).count(one)} of {one}" for one in sorted(set(several.values()))
    ]
    open_cells = len(several) * len((*USED, *FILES)) - len(outcomes)
    return (
        f"Architectures: {', '.join(sources)}. Of {len(outcomes)} cells {outcomes.count('holds')} "
        f"hold ({100 * outcomes.count('holds') / len(outcomes):.0f} %), "
        f"{outcomes.count('differs')} are less exact, {outcomes.count('refused')} are refused with "
        f"a message, and {outcomes.count('raw')} end in another library's error. Not measured yet: "
        f"{open_cells}."
    )


def _table(latest: list[Row], columns: tuple[str, ...], numbers: Mapping[str, int]) -> list[str]:
    cells = {(row["architecture"], row["column"]): row for row in latest}
    lines = []
    for name in dict.fromkeys(row["architecture"] for row in latest):
        own = [cells.get((name, column)) for column in columns]
        if any(own):
            lines.append([name, *(_cell(row, numbers) if row else "" for row in own)])
    return common.table(["architecture", *columns], lines)


def _cell(row: Row, numbers: Mapping[str, int]) -> str:
    if "figure" not in row:
        return f"{'**raw**' if row['outcome'] == 'raw' else 'refused'} ({numbers[_reason(row)]})"
    figure = row["figure"]
    told = f"{100 * figure:.0f} %" if row["unit"] == "agreement" else f"{figure:.0e}"
    told = "equal" if row["unit"] == "difference" and figure == 0 else told
    told += " with `allow_float`" if row["note"].startswith("allow_float") else ""
    told = told if row["outcome"] == "holds" else f"*{told}*"
    return f"{told} ({row['beside']})" if row.get("beside") else told


def _reason(row: Row) -> str:
    """Returns a message without what differs between architectures: names, folders, numbers."""
    text = " ".join(row["message"].split()).replace("`", "'")
    text = re.sub(r"/tmp/\S*/", "", text)
    text = re.sub(r"(student|model) '[\w/]+'", r"\1 '...'", text)
    text = re.sub(r"layer '[^']+' of type \w+", "layer '...' of type ...", text)
    text = re.sub(r"shape \(None(, \d+)+\)", "shape (...)", text)
    text = re.sub(r"\bReceived: knowledge=.*", "", text)
    # The remedy comes after a list that may be long.
    text = re.sub(r"(\[(?:'[^']*', ){3})(?:'[^']*', ){3,}[^\]]*\]", r"\1...]", text)
    return text if len(text) <= 400 else f"{text[:400].rsplit(' ', 1)[0]} ..."
