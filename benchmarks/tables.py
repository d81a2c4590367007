"""Writes the tables of README.md and of docs/ from rows; a number in them is never typed.

    python -m benchmarks.tables            rewrites all pages
    python -m benchmarks.tables --check    fails if one is not up to date

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. A benchmark adds its own with
a function from rows to Markdown under its NAME in `TABLES`; the rows are those of
`results/NAME.jsonl`, oldest first. A table of several files is in `OF_SEVERAL`.
"""

import re
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import common, evidence_default_table
from benchmarks.accuracy.data_free_table import data_free
from benchmarks.accuracy.quantized_table import quantized_distillation
from benchmarks.accuracy.smaller.table import SMALLER
from benchmarks.accuracy.solar_cells_table import solar_cells
from benchmarks.checks.dropped_models_table import dropped_models
from benchmarks.cifar100 import every_loss_table, evidence
from benchmarks.cifar100.tables import (
    cifar100_input,
    cifar100_kills,
    cifar100_middle,
    cifar100_paper,
    cifar100_small,
)
from benchmarks.export.phones_table import phones
from benchmarks.matrix.pairs_table import model_pairs
from benchmarks.matrix.table import model_matrix
from benchmarks.recommended_table import FILES, recommended
from benchmarks.speed.peers.table import peers
from benchmarks.speed.profile_table import profile_step
from benchmarks.tasks.table import tasks

FLAGS = flags.FLAGS
ROOT = Path(__file__).parents[1]
MARK = "<!-- table:"
PAGES = [
    str(page)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if MARK in page.read_text("utf-8")
]
flags.DEFINE_bool("check", False, "Write nothing; fail if a page is not up to date")
flags.DEFINE_multi_string("page", PAGES, "The files to rewrite")
flags.DEFINE_string("results", str(common.RESULTS), "The folder of the rows")

Row = Mapping[str, Any]

_MARKED = re.compile(r"(<!-- table:(\w+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def step_overhead(rows: list[Row]) -> str:
    """Returns the latest row of each pair and contender."""
    columns = ["teacher → student", "step", "milliseconds (quartiles)", "ratio (quartiles)"]
    columns += ["wanted"]
    lines = []
    latest = common.latest(rows, "pair", "contender")
    for row in latest:
        ratio = f"{common.told(row, 'ratio', 2)} x {row['ratio_to']}" if "ratio_to" in row else ""
        teacher, _, student = row["pair"].partition(":")
        pair = f"{teacher} → {student.replace(':', ', width ')}"
        if row.get("size", 32) != 32:
            pair += f", {row['size']} x {row['size']}"
        wanted = f"≤ {row['wanted']:.2f}" if row.get("wanted") else ""
        lines.append([pair, row["contender"], common.told(row, "ms", 0), ratio, wanted])
    return "\n".join(
        [*common.table(columns, lines), "", *common.origins(latest, "batch", "rounds", "steps")]
    )


def rkd_memory(rows: list[Row]) -> str:
    """Returns the latest row of each width and contender."""
    columns = ["width", "RKD", "milliseconds (quartiles)", "ratio (quartiles)", "MiB", "ratio"]
    lines = []
    latest = common.latest(rows, "features", "contender")
    for row in latest:
        time = common.told(row, "ratio", 2) if "ratio_median" in row else ""
        memory = f"{row['mib_ratio']:.2f}" if "mib_ratio" in row else ""
        cells = [row["features"], row["contender"], common.told(row, "ms", 0), time]
        cells += [f"{row['mib']:.0f}", memory]
        lines.append(cells)
    return "\n".join(
        [*common.table(columns, lines), "", *common.origins(latest, "batch", "rounds", "steps")]
    )


def large_vocabulary(rows: list[Row]) -> str:
    """Returns the latest row of each loss, dtype and form."""
    columns = ["loss", "logits", "form", "milliseconds (quartiles)", "times faster (quartiles)"]
    columns += ["MiB", "x the student's logits in float32"]
    lines = []
    latest = common.latest(rows, "loss", "dtype", "contender")
    for row in latest:
        faster = common.told(row, "speedup", 2) if "speedup_median" in row else ""
        cells = [row["loss"], row["dtype"], row["contender"], common.told(row, "ms", 0), faster]
        lines.append([*cells, f"{row['mib']:.0f}", f"{row['peak']:.2f}"])
    settings = ("positions", "classes", "rounds", "steps")
    return "\n".join([*common.table(columns, lines), "", *common.origins(latest, *settings)])


def guard_cost(rows: list[Row]) -> str:
    """Returns the latest row of each memory, size and contender."""
    columns = ["memory", "rows", "step", "milliseconds (quartiles)", "ratio (quartiles)"]
    lines = []
    latest = common.latest(rows, "kind", "rows", "contender")
    for row in latest:
        ratio = common.told(row, "ratio", 2) if "ratio_median" in row else ""
        cells = [
            row["kind"],
            f"{row['rows']:,}",
            row["contender"],
            common.told(row, "ms", 0),
            ratio,
        ]
        lines.append(cells)
    settings = ("student", "negatives", "batch", "rounds", "steps")
    return "\n".join([*common.table(columns, lines), "", *common.origins(latest, *settings)])


def online_cost(rows: list[Row]) -> str:
    """Returns the latest row of each form, contender and comparison."""
    columns = ["step of three students", "milliseconds (quartiles)", "ratio (quartiles)", "wanted"]
    lines = []
    rows = [{"ratio_to": "", **row} for row in rows]
    latest = common.latest(rows, "form", "contender", "ratio_to")
    for row in latest:
        ratio = f"{common.told(row, 'ratio', 2)} x {row['ratio_to']}" if row["ratio_to"] else ""
        wanted = f"≤ {row['wanted']:.2f}" if row.get("wanted") else ""
        lines.append([row["contender"], common.told(row, "ms", 0), ratio, wanted])
    settings = ("student", "teacher", "at", "batch", "rounds", "steps")
    return "\n".join([*common.table(columns, lines), "", *common.origins(latest, *settings)])


def online_table(rows: list[Row]) -> str:
    """Returns a line for each method: its seeds' mean and standard deviation, and its cost.

    Of several settings, the last one that was run counts. Times are relative to plain training
    from the same seed, where one run of the benchmark has both.
    """
    settings = ("epochs", "labels", "teacher_epochs", "learning_rate", "online_weight")
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in settings)]
    runs = {(row["method"], row["seed"]): row for row in rows}
    columns = [
        "method",
        "best peer, %",
        "own ensemble, %",
        "mean of probabilities, %",
        "student passes",
        "teacher passes",
        "time, x plain",
        "seeds",
    ]
    lines = []
    for method in dict.fromkeys(method for method, _ in runs):
        own = [row for (name, _), row in runs.items() if name == method]
        plain = [(row, runs.get(("plain", row["seed"]))) for row in own]
        costs = [
            row["seconds"] / other["seconds"]
            for row, other in plain
            if other and (row["device"], row["commit"]) == (other["device"], other["commit"])
        ]
        cells = [method]
        for kind in ("test", "ensemble_test", "softmax_ensemble_test"):
            percents = [100 * row[kind] for row in own if row[kind] is not None]
            cells.append(common.mean_and_deviation(percents))
        cells += [f"{own[0]['student_passes']:.1f}", str(own[0]["teacher_passes"])]
        cells += [f"{statistics.mean(costs):.1f}" if costs else "", str(len(own))]
        lines.append(cells)
    return "\n".join([*common.table(columns, lines), "", *common.origins(runs.values(), *settings)])


def soak(rows: list[Row]) -> str:
    """Returns the latest row with and without Keras' checkpoints."""
    columns = [
        "ModelCheckpoint",
        "memory",
        "after the first epoch, MiB",
        "median",
        "at the end",
        "MiB in 1,000 steps",
        "traced after the first epoch",
    ]
    lines = []
    latest = common.latest(rows, "model_checkpoint")
    for row in latest:
        anew = sum(row["traces"].values()) - sum(row["traces_first_epoch"].values())
        for name, told in (("mib", "resident"), ("given_out_mib", "given out")):
            cells = ["yes" if row["model_checkpoint"] else "no", told]
            cells += [f"{row[f'{name}_{which}']:.1f}" for which in ("first", "median", "last")]
            growth, error = row[f"{name}_per_1000_steps"], row[f"{name}_per_1000_steps_error"]
            lines.append([*cells, f"{growth:+.3f} ± {error:.3f}", anew])
    settings = ("steps", "epochs", "settling", "batch", "samples")
    return "\n".join([*common.table(columns, lines), "", *common.origins(latest, *settings)])


def precision(rows: list[Row]) -> str:
    """Returns the latest steps of each pair, and the accuracies of the setting run last."""
    made = []
    steps = common.latest([row for row in rows if row["part"] == "steps"], "pair", "contender")
    if steps:
        # As the newest run has them: an earlier one may have had others.
        newest = max(steps, key=lambda row: row["date"])["commit"]
        present = {row["contender"] for row in steps if row["commit"] == newest}
        steps = [row for row in steps if row["contender"] in present]
        columns = ["teacher → student", "step of KD", "bfloat16 arithmetic"]
        columns += ["milliseconds (quartiles)", "x float32 (quartiles)"]
        columns += ["wanted with that arithmetic", "error of the loss"]
        columns += ["error of the gradient (cosine)"]
        made += common.table(columns, map(_precision_cells, steps))
        made += ["", *common.origins(steps, "batch", "rounds", "steps", "cores")]
    runs = [row for row in rows if row["part"] == "accuracy"]
    if runs:
        made += ["", *_accuracies(runs)] if made else _accuracies(runs)
    return "\n".join(made)


def _precision_cells(row: Row) -> list[str]:
    cells = [row["pair"].replace(":", " → "), row["contender"]]
    cells += ["yes" if row["bfloat16"] else "no, emulated", common.told(row, "ms", 0)]
    if "ratio_to" not in row:
        return cells + [""] * 4
    wanted = f"≤ {row['wanted']:.2f}" if row["wanted"] else ""
    gradient = f"{row['gradient_error']:.0e} ({row['gradient_cosine']:.4f})"
    return [*cells, common.told(row, "ratio", 2), wanted, f"{row['loss_error']:.0e}", gradient]


def _accuracies(rows: list[Row]) -> list[str]:
    """Returns a line for each precision: its seeds' accuracies beside those of float32."""
    settings = ("training_steps", "labels", "teacher_epochs", "learning_rate")
    rows = [row for row in rows if all(row[name] == rows[-1][name] for name in settings)]
    runs = {(row["contender"], row["seed"]): row for row in rows}
    by_contender = {name: [] for name, _ in runs}
    for (name, _), row in runs.items():
        by_contender[name].append(row)
    reference = [100 * row["test"] for row in by_contender["float32"]]
    columns = [
        "KD in",
        "test accuracy, %",
        "from float32, in its deviations",
        "steps skipped",
        "seeds",
    ]
    lines = []
    for name, own in by_contender.items():
        percents = [100 * row["test"] for row in own]
        distance = ""
        if name != "float32" and len(reference) > 1:
            difference = statistics.mean(percents) - statistics.mean(reference)
            distance = f"{difference / statistics.stdev(reference):+z.1f}"
        skipped = str(sum(row["skipped"] for row in own))
        cells = [name, common.mean_and_deviation(percents), distance, skipped, str(len(own))]
        lines.append(cells)
    return [*common.table(columns, lines), "", *common.origins(runs.values(), *settings)]


def export_zoo(rows: list[Row]) -> str:
    """Returns a line for each network, smaller ones first, with what its latest files have."""
    files = ("float32", "float16", "dynamic", "int8")
    columns = ["network (parameters)", f"KiB: {', '.join(files)}", "int8 is smaller"]
    columns += [f"agreement, %: {', '.join(files[1:])}", f"milliseconds: {', '.join(files)}"]
    lines = []
    latest = sorted(common.latest(rows, "network", "file"), key=lambda row: row["parameters"])
    for network in dict.fromkeys(row["network"] for row in latest):
        own = {row["file"]: row for row in latest if row["network"] == network}
        several = [own[file] for file in files]
        cells = [
            f"{network} ({several[0]['parameters']:,})",
            ", ".join(f"{row['bytes'] / 1024:,.0f}" for row in several),
            f"{own['int8']['ratio_to_float32']:.2f} times",
            ", ".join(f"{100 * row['agreement']:.1f}" for row in several[1:]),
            ", ".join(f"{row['ms']:.2f}" for row in several),
        ]
        lines.append(cells)
    # One command measures all networks, or each by itself.
    alike = [{**row, "command": row["command"].partition(" --network=")[0]} for row in latest]
    settings = ("steps", "batch", "representative", "images", "repeats")
    return "\n".join([*common.table(columns, lines), "", *common.origins(alike, *settings)])


def teacher_cache(rows: list[Row]) -> str:
    """Returns the latest row of each pair and contender."""
    columns = [
        "teacher → student",
        "learns from",
        "milliseconds (quartiles)",
        "times the student alone",
        "wanted",
        "bytes for a view of a sample",
    ]
    lines = []
    latest = common.latest(rows, "student", "teacher", "contender")
    for row in latest:
        cells = [
            f"{row['teacher']} → {row['student']}, {row.get('size', 32)} x {row.get('size', 32)}",
            row["contender"],
            common.told(row, "ms", 0),
            common.told(row, "ratio", 2) if "ratio_median" in row else "",
            f"≤ {row['wanted']:.2f}" if "wanted" in row else "",
            f"{row['bytes_per_view']:,}" if "bytes_per_view" in row else "",
        ]
        lines.append(cells)
    settings = ("at", "batch", "images", "views", "rounds", "steps")
    return "\n".join([*common.table(columns, lines), "", *common.origins(latest, *settings)])


TABLES: dict[str, Callable[[list[Row]], str]] = {
    "step_overhead": step_overhead,
    "peers": peers,
    "profile_step": profile_step,
    "rkd_memory": rkd_memory,
    "large_vocabulary": large_vocabulary,
    "guard_cost": guard_cost,
    "online_cost": online_cost,
    "online_table": online_table,
    "soak": soak,
    "dropped_models": dropped_models,
    "precision": precision,
    "quantized_distillation": quantized_distillation,
    "data_free": data_free,
    "tasks": tasks,
    "export_zoo": export_zoo,
    "phones": phones,
    "solar_cells": solar_cells,
    "teacher_cache": teacher_cache,
    "model_matrix": model_matrix,
    "model_pairs": model_pairs,
    "cifar100_input": cifar100_input,
    "cifar100_kills": cifar100_kills,
    "cifar100_small": cifar100_small,
    "cifar100_middle": cifar100_middle,
    "cifar100_paper": cifar100_paper,
}


OF_SEVERAL: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, list[Row]]], str]]] = {
    "recommended": (FILES, recommended),
    **SMALLER,
    **evidence.TABLES,
    **every_loss_table.TABLES,
    **evidence_default_table.TABLES,
}
"""Tables from the rows of several files: their names, and a function from rows by name."""

WITHOUT_ROWS = {"cifar100_paper"}
"""Tables that say something before anything was run: what was published."""


def render(page: str, results: Path) -> str:
    """Returns the text of a page with every table that has a place there made anew.

    Raises:
        ValueError: If the page has no place for any table, or a place for an unknown one.
    """
    marked = {match[2] for match in _MARKED.finditer(page)}
    known = {*TABLES, *OF_SEVERAL}
    if not marked or not marked <= known:
        raise ValueError(
            "A page must have places, <!-- table:NAME --> to <!-- /table -->, for some of "
            f"{sorted(known)}. Received: places for {sorted(marked)}"
        )

    def table(match: re.Match) -> str:
        start, name, _, end = match.groups()
        return f"{start}{_table(name, results)}\n{end}"

    return _MARKED.sub(table, page)


def _table(name: str, results: Path) -> str:
    if name in OF_SEVERAL:
        files, made_of = OF_SEVERAL[name]
        return made_of({file: common.read_rows(results / f"{file}.jsonl") for file in files})
    rows = common.read_rows(results / f"{name}.jsonl")
    return TABLES[name](rows) if rows or name in WITHOUT_ROWS else "*Not measured yet.*"


def main(_) -> None:
    for path in map(Path, FLAGS.page):
        present = path.read_text("utf-8")
        made = render(present, Path(FLAGS.results))
        if made == present:
            continue
        if FLAGS.check:
            sys.exit(f"{path.name} is not up to date: run python -m benchmarks.tables")
        path.write_text(made, "utf-8")


if __name__ == "__main__":
    app.run(main)
