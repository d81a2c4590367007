"""The matrix: which architectures of keras.applications and keras-hub hold in which part.

Each architecture is built with random weights, takes the statistics of a batch, and gets a head
that is fitted to clothes (or to made-up sentences) by least squares, so that its answers depend on
its inputs. Then each column asks it for something and compares the result with an independent
computation. A cell is a figure, the reason of a refusal, or an error that is not ours ("raw").

Each architecture has a process of its own and a time limit. Rows are appended cell by cell; what
has a row is left out, so a run that was ended goes on. Two architectures at once take up to 20 GB.

    python -m benchmarks.matrix.run
    python -m benchmarks.matrix.run --processes=2
    python -m benchmarks.matrix.run --architecture=MobileNetV2 --column=fold --again
"""

import concurrent.futures
import gc
import importlib.metadata
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("architecture", [], "Names; all of them unless given")
flags.DEFINE_multi_string("column", [], "Names; all of them unless given")
flags.DEFINE_integer("processes", 1, "Architectures at once", lower_bound=1)
flags.DEFINE_integer("limit", 1200, "Seconds that an architecture has", lower_bound=1)
flags.DEFINE_bool("again", False, "Measure what has a row as well")
flags.DEFINE_bool("here", False, "In this process, without a limit")
flags.DEFINE_string("output", str(common.RESULTS / "model_matrix.jsonl"), "Rows go here")


def measured(name: str, column: str, case: Any) -> dict[str, Any]:
    """Returns the row of a cell."""
    from benchmarks.matrix.columns import COLUMNS

    start, cpu = time.perf_counter(), time.process_time()
    row: dict[str, Any] = {"architecture": name, "column": column}
    try:
        cell = COLUMNS[column](case)
    except Exception as error:
        ours = is_ours(error)
        row |= {"outcome": "refused" if ours else "raw", "error": type(error).__name__}
        row |= {"message": str(error)[:3000]}
        if not ours:
            row["traceback"] = "".join(traceback.format_tb(error.__traceback__)[-3:])[-1500:]
    else:
        row |= {"outcome": "holds" if cell.holds else "differs", "figure": cell.figure}
        row |= {"unit": cell.unit, "note": cell.note}
        row |= {"beside": cell.beside} if cell.beside else {}
    seconds = round(time.perf_counter() - start, 1)
    # What it takes where nothing else runs.
    return {**row, "seconds": seconds, "cpu_seconds": round(time.process_time() - cpu, 1)}


def is_ours(error: Exception) -> bool:
    """Returns whether the library itself raised an error, and not something that it called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "modreduce_keras" in Path(frames[-1].filename).parts


def _in_this_process(name: str, columns: list[str]) -> None:
    from benchmarks.matrix.architectures import ARCHITECTURES
    from benchmarks.matrix.columns import Case

    architecture = ARCHITECTURES[name]
    case = Case(name, architecture)
    # Leaves what stays out of later collections, which then come more often: the graphs that
    # become large ONNX files refer to themselves, and take 10 GB otherwise.
    gc.collect()
    gc.freeze()
    about = {"source": architecture.source, "family": architecture.family}
    about |= {"kind": architecture.kind, "parameters": case.model.count_params()}
    about |= common.metadata(0)
    # The run that a user starts, not the process that it gives this architecture.
    about["command"] = shlex.join(
        ["python", "-m", "benchmarks.matrix.run", f"--architecture={name}"]
    )
    if architecture.source == "keras-hub":
        about["keras_hub"] = importlib.metadata.version("keras-hub")
    for column in columns:
        row = measured(name, column, case)
        common.append_rows(Path(FLAGS.output), [{**row, **about}])
        print(_said(row), flush=True)
        gc.collect()


def _said(row: dict[str, Any]) -> str:
    told = f"{row['figure']:.3g} {row['note']}" if "figure" in row else row["message"][:150]
    start = f"{row['architecture']:18} {row['column']:18} {row['outcome']:8}"
    return f"{start} {row['seconds']:6.1f} s  {told}"


def _in_its_own(name: str, columns: list[str]) -> None:
    """Measures an architecture in a process that ends at the limit."""
    given = ["--here", "--again", f"--architecture={name}", f"--output={FLAGS.output}"]
    given += [f"--column={column}" for column in columns]
    command = [sys.executable, "-m", "benchmarks.matrix.run", *given]
    try:
        subprocess.run(command, timeout=FLAGS.limit, check=False)
    except subprocess.TimeoutExpired:
        print(f"{name}: not done in {FLAGS.limit} s", flush=True)


def main(_) -> None:
    from benchmarks.matrix.architectures import ARCHITECTURES
    from benchmarks.matrix.columns import COLUMNS

    start = time.perf_counter()
    done = {(row["architecture"], row["column"]) for row in common.read_rows(Path(FLAGS.output))}
    wanted = {}
    for name in FLAGS.architecture or ARCHITECTURES:
        columns = FLAGS.column or COLUMNS
        wanted[name] = [one for one in columns if FLAGS.again or (name, one) not in done]
    wanted = {name: columns for name, columns in wanted.items() if columns}
    if FLAGS.here:
        for name, columns in wanted.items():
            _in_this_process(name, columns)
        return
    # From both ends in turn, so that the largest are seldom measured at once.
    order = [*wanted.items()]
    order = [order.pop(-(place % 2)) for place in range(len(order))]
    with concurrent.futures.ThreadPoolExecutor(FLAGS.processes) as pool:
        for measuring in [pool.submit(_in_its_own, *one) for one in order]:
            measuring.result()
    print(f"{len(wanted)} architectures in {(time.perf_counter() - start) / 60:.1f} min")


if __name__ == "__main__":
    app.run(main)
