"""What the benchmarks share: interleaved timing, peak memory, statistics, and rows in a file."""

import ctypes
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# TensorFlow and Keras are imported where they are used: the tables are made without them.
RESULTS = Path(__file__).parent / "results"
CPUINFO = Path("/proc/cpuinfo")
FIGURES = Path(__file__).parents[1] / "docs" / "images"
LOGS_TOLERANCE, MOVE_TOLERANCE = 1e-4, 1e-3
MOVED = {
    "cifar100": "cifar100.train",
    "cifar100_input": "cifar100.input",
    "cifar100_kills": "cifar100.kills",
    "export_zoo": "export.zoo",
    "fifty_steps": "accuracy.fifty_steps",
    "guard_cost": "speed.guard_cost",
    "method_cost": "speed.method_cost",
    "online_cost": "speed.online_cost",
    "online_table": "accuracy.online_table",
    "precision": "accuracy.precision",
    "quantized_distillation": "accuracy.quantized_distillation",
    "rkd_memory": "speed.rkd_memory",
    "soak": "checks.soak",
    "step_overhead": "speed.step_overhead",
    "teacher_cache": "speed.teacher_cache",
}
"""Where the scripts are that rows name by `benchmarks/SCRIPT.py`."""
_PACKAGES = ("tensorflow", "keras")


def interleave(
    contenders: Mapping[str, Callable[[], Any]], *, rounds: int, steps: int
) -> dict[str, np.ndarray]:
    """Times contenders that take turns, so that other work of the machine affects them equally.

    A round runs every contender for a few steps; the next round begins one contender later.

    Args:
        contenders: Functions that run one step and return only when it is done, by name. Each
            has run before, so that nothing is built or traced here.
        rounds: Number of rounds, at least 1.
        steps: Number of steps that a contender runs in a round, at least 1.

    Returns:
        (rounds, steps) milliseconds per step, by name.
    """
    names = list(contenders)
    times = {name: np.zeros((rounds, steps)) for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            for step in range(steps):
                start = time.perf_counter()
                contenders[name]()
                times[name][turn, step] = 1000 * (time.perf_counter() - start)
    return times


def peak_memory(function: Callable[[], Any]) -> float:
    """Returns how much memory a function takes at its peak beyond what was held before, in MiB.

    Where TensorFlow counts the tensors' bytes itself (GPUs, and CPUs with oneDNN), that count is
    taken: there it keeps freed memory for later, so what the process occupies says nothing about
    the second contender. Elsewhere it is the process's resident set.

    Neither sees what was there before and is only used. The count does not see NumPy arrays, the
    scratch space that a kernel takes from the system, and on CPUs tensors below 256 KiB; the
    resident set does, but not memory that other parts of the process have freed and kept.

    Args:
        function: It returns only when it is done. It has run before, so that nothing is built or
            traced here.

    Raises:
        OSError: If TensorFlow does not count and the system is not Linux.
    """
    counted = counted_peak(function)
    return resident_peak(function) if counted is None else counted


def counted_peak(function: Callable[[], Any]) -> float | None:
    """Returns a function's peak, MiB, by TensorFlow's count, or `None` where it has none."""
    import tensorflow as tf

    memory = tf.config.experimental
    device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
    gc.collect()
    try:
        memory.reset_memory_stats(device)
    except ValueError:
        return None
    before = memory.get_memory_info(device)["current"]
    function()
    return (memory.get_memory_info(device)["peak"] - before) / 2**20


def resident_peak(function: Callable[[], Any]) -> float:
    """Returns a function's peak, MiB, by the process's resident set. On Linux only."""
    gc.collect()
    # Memory that was freed but not given back would be taken again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # The peak begins anew.
    before = resident()
    function()
    return resident("VmHWM") - before


def resident(field: str = "VmRSS") -> float:
    """Returns the resident set of the process, MiB, or its peak (`"VmHWM"`). On Linux only."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


def adopt_statistics(model: Any, images: np.ndarray) -> None:
    """Gives an untrained Keras model the statistics of a batch: its outputs stay moderate."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def require_same_logs(
    name: str, logs: Mapping[str, Any], reference: str, expected: Mapping[str, Any]
) -> None:
    """Compares the logs of two contenders' first steps.

    Raises:
        RuntimeError: If they differ, so that a comparison of the times would mean nothing.
    """
    given, wanted = ({k: float(v) for k, v in side.items()} for side in (logs, expected))
    values = ([side.get(k, np.nan) for k in given | wanted] for side in (given, wanted))
    if not np.allclose(*values, rtol=LOGS_TOLERANCE, atol=0):
        raise RuntimeError(f"{name!r} logs {given}, but {reference!r} logs {wanted}")


def require_same_movement(
    name: str, moved: np.ndarray, reference: str, expected: np.ndarray
) -> None:
    """Compares how far two contenders' first steps have moved their variables, as one vector.

    Raises:
        RuntimeError: If that differs, so that a comparison of the times would mean nothing.
    """
    error = np.linalg.norm(moved - expected) / np.linalg.norm(expected)
    if not error <= MOVE_TOLERANCE:
        raise RuntimeError(
            f"{name!r} moves the student differently from {reference!r}: relative {error:.1e}"
        )


def spread(values: np.ndarray, name: str) -> dict[str, float]:
    """Returns `NAME_median` and the quartiles, `NAME_p25` and `NAME_p75`, of some values."""
    quantiles = {"median": 50, "p25": 25, "p75": 75}
    return {f"{name}_{q}": round(float(np.percentile(values, p)), 4) for q, p in quantiles.items()}


def mean_and_deviation(values: Sequence[float], digits: int = 1, *, signed: bool = False) -> str:
    """Returns a mean and the standard deviation as text; of one value itself, of none nothing."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{'+' if signed else ''}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def told(row: Mapping[str, Any], name: str, digits: int) -> str:
    """Returns what `spread` has put into a row as text: the median and the quartiles."""
    median, p25, p75 = (f"{row[f'{name}_{q}']:.{digits}f}" for q in ("median", "p25", "p75"))
    return f"{median} ({p25} to {p75})"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    filled = [columns, ["---"] * len(columns), *rows]
    head, rule, *body = (f"| {' | '.join(map(_cell, cells))} |" for cells in filled)
    return [head, rule.replace(" ", ""), *body]


def _cell(content: Any) -> str:
    """Returns Markdown that stays in its cell: on one line, its pipes escaped."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(str(content).split()))


def paired_ratios(times: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns one ratio per round, (rounds,), of what two contenders took in the same round."""
    return times.mean(axis=1) / reference.mean(axis=1)


def metadata(seed: int) -> dict[str, Any]:
    """Returns what every row says about its run: when, by which command, of what, on what."""
    import modreduce_keras

    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *_program(), *_of_any_machine(sys.argv[1:])]),
        "commit": _commit(),
        "seed": seed,
        "device": _device(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        # Of what is imported: a checkout need not be installed.
        "modreduce_keras": modreduce_keras.__version__,
    }


def has_gpu() -> bool:
    """Returns whether TensorFlow computes on a GPU."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def has_bfloat16() -> bool:
    """Returns whether what TensorFlow computes on has bfloat16 arithmetic."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    text = CPUINFO.read_text("utf-8") if CPUINFO.exists() else ""
    # The last is that of Arm.
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(text.split())


def cores() -> int:
    """Returns how many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows to a JSON-lines file, one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSON-lines file, oldest first; none where there is no file.

    Rows from before the benchmarks had folders have the command that runs theirs now.
    """
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    return [
        {**row, "command": _present_command(row["command"])} if "command" in row else row
        for row in rows
    ]


def latest(rows: Iterable[Mapping[str, Any]], *keys: str) -> list[Mapping[str, Any]]:
    """Returns the last row of each combination of keys, grouped by the first key."""
    by_key = {tuple(row[key] for key in keys): row for row in rows}
    groups = list(dict.fromkeys(first for first, *_ in by_key))
    return [by_key[key] for key in sorted(by_key, key=lambda key: groups.index(key[0]))]


def origins(rows: Iterable[Mapping[str, Any]], *settings: str) -> list[str]:
    """Returns one line for each run that the rows come from: how, on what, when."""
    return list(
        dict.fromkeys(
            f"`{row['command']}` ({', '.join(f'{name} {row[name]}' for name in settings)}) on "
            f"{row['device']}, TensorFlow {row['tensorflow']}, Keras {row['keras']}, "
            f"Python {row['python']}, modreduce_keras {row['modreduce_keras']}"
            f"{' at ' + row['commit'] if row['commit'] else ''}, {row['date'][:10]}."
            for row in rows
        )
    )


def _program() -> list[str]:
    """Returns what Python was told to run: `-m` and a module, or a file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name] if spec else [Path(sys.argv[0]).name]


def _of_any_machine(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command without the flags that give a folder of this machine."""
    places = {
        place
        for number, argument in enumerate(arguments)
        if Path(argument.partition("=")[2] or argument).is_absolute()
        for place in ([number] if "=" in argument else [number - 1, number])
    }
    return [argument for number, argument in enumerate(arguments) if number not in places]


def _present_command(command: str) -> str:
    command = re.sub(
        r"^python benchmarks/(\w+)\.py",
        lambda match: f"python -m benchmarks.{MOVED[match[1]]}",
        command,
    )
    return re.sub(
        r"benchmarks/configurations/cifar100_(?=\w+\.txt)",
        "benchmarks/cifar100/configurations/",
        command,
    )


def _commit() -> str | None:
    """Returns the commit that is checked out, marked where files other than rows differ from it."""
    tracked = ["status", "--porcelain", "--untracked-files=no", "--", ":(exclude)results"]
    head, changed = _git("rev-parse", "--short=10", "HEAD"), _git(*tracked, ":(top)")
    return head and head + ("-dirty" if changed else "")


def _git(*arguments: str) -> str | None:
    """Returns what git says of the repository of this file, if it is one."""
    try:
        found = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _device() -> str:
    """Returns the processors that TensorFlow computes on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"{len(gpus)} x {details.get('device_name', 'GPU')}"
    lines = CPUINFO.read_text("utf-8").splitlines() if CPUINFO.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{os.cpu_count()} x {next(models, platform.machine())}"
